"""Steps that look: nothing changes but what the session knows, and \\Seen where a text is read."""

from typing import TYPE_CHECKING, Final

from model import steps as s
from model.checks import check_changed, check_fetched, check_found, check_found_since, check_summary, named
from model.client import Answer, Fetched, Found, Searched
from model.doing_messages import since_of
from model.model import SEEN, View, require
from model.session import Session, Told

if TYPE_CHECKING:
    from model.walk import Walk

_ITEMS: Final = {
    "flags": b"(UID FLAGS)",
    "changed": b"(UID FLAGS)",
    "size": b"(UID RFC822.SIZE)",
    "subject": b"(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])",
    "body": b"(UID BODY[TEXT])",
}


async def select(walk: "Walk", session: Session, step: s.Select) -> None:
    """SELECT or EXAMINE"""
    name = walk.place(session, step.mailbox)
    await session.select(name, fetches=step.fetches, is_read_only=step.is_read_only, resume=step.resume)
    walk.is_void = session.view is None


async def reconnect(walk: "Walk", session: Session, step: s.Reconnect) -> None:
    """The connection is lost, and the client comes back."""
    await session.come_back(step.modes, step.resume)


async def unselect(walk: "Walk", session: Session, step: s.Unselect) -> None:
    """UNSELECT"""
    await session.selected()
    answer = await session.command(b"UNSELECT", is_selected=True)
    session.expect(answer, "")
    session.leave()


async def noop(walk: "Walk", session: Session, step: s.Noop) -> None:
    """NOOP or CHECK"""
    await session.selected()
    command = b"CHECK" if step.is_check else b"NOOP"
    session.settle(await session.command(command, is_selected=step.is_check), "", Told.ALL)


async def idle(walk: "Walk", session: Session, step: s.Idle) -> None:
    """IDLE, where the mailbox is not about to be closed."""
    view = await session.selected()
    if view.is_closed:
        await noop(walk, session, s.Noop(step.session, is_check=True))
        return
    await session.begin_idle()


async def status(walk: "Walk", session: Session, step: s.Status) -> None:
    """STATUS, by a session that may have another mailbox selected."""
    name = walk.place(session, step.mailbox)
    refusal, _ = walk.world.open(session.reader, name, "r")
    answer = await session.command(f'STATUS "{name}" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE)'.encode())
    walk.is_void = bool(refusal)
    if session.settle(answer, refusal, Told.SOME) and not refusal:
        walk.compare_status(answer.lines, session, name)


async def list_all(walk: "Walk", session: Session, step: s.ListAll) -> None:
    """LIST of everything."""
    answer = await session.command(b'LIST "" *')
    if session.settle(answer, "", Told.SOME):
        walk.compare_list(answer.lines, session)


async def fetch(walk: "Walk", session: Session, step: s.Fetch) -> None:
    """FETCH"""
    view = await session.selected()
    is_uid = step.is_uid or session.is_uid_only
    which = named(view, step.picks, is_uid=is_uid, is_open=step.is_open, is_saved=step.is_saved)
    walk.is_void = not which.uids
    if walk.is_void and not is_uid:
        return
    if session.is_uid_only and not step.is_uid:
        await session.must_name_by_uid(b"FETCH 1 FLAGS")
    word = b"UID FETCH" if is_uid else b"FETCH"
    since = since_of(view, which.uids, step.since) if session.is_aware else None
    modifier = b"" if since is None else b" (CHANGEDSINCE %d)" % since
    command = b"%b %b %b%b" % (word, which.text, _ITEMS[step.what], modifier)
    answer = await session.command(command, is_selected=True)
    if step.what == "body" and not view.is_read_only and "s" in view.rights:
        for uid in which.uids:
            if (flags := view.current(uid)) is not None:
                view.mailbox.set_flags(uid, flags | {SEEN}, view.reader)
        walk.touch(view.mailbox)
    if session.is_orphan:
        return
    if since is None:
        check_fetched(view, which.uids, answer, step.what)
    else:
        check_changed(view, which.uids, answer, since)
    told = Told.ALL if is_uid else Told.HELD
    by_uid, is_asked = which.uids if is_uid else (), since is None and step.what in ("flags", "changed")
    session.settle(answer, "", told, may_expunge=is_uid, by_uid=by_uid, is_asked=is_asked)


async def search(walk: "Walk", session: Session, step: s.Search) -> None:
    """SEARCH"""
    view = await session.selected()
    is_uid = step.is_uid or session.is_uid_only
    kind = "ALL" if step.key == "since" and not session.is_aware else step.key
    numbers = [one.number for one in view.mailbox.messages.values()]
    number = numbers[step.pick % len(numbers)] if numbers else 0
    since = since_of(view, view.uids, step.pick) or 1
    key = {"picked": f'SUBJECT "test {number}."', "since": f"MODSEQ {since + 1}"}.get(kind, kind)
    options = f"RETURN ({step.returns}) " if step.returns else ""
    if session.is_uid_only and not step.is_uid:
        await session.must_name_by_uid(b"SEARCH ALL" if step.pick % 2 else b"UID SEARCH 1")
    word = b"UID SEARCH" if is_uid else b"SEARCH"
    answer = await session.command(b"%b %b%b" % (word, options.encode(), key.encode()), is_selected=True)
    if session.is_orphan:
        return
    if answer.end.status == "OK":
        line = _found(session, step, answer, is_uid=is_uid)
        if kind == "since":
            check_found_since(view, line, since, is_uid=is_uid)
        else:
            check_found(view, line, kind, number, is_uid=is_uid)
        if "SAVE" in step.returns:
            view.saved = list(line.numbers) if is_uid else [view.uid_of(seq) for seq in line.numbers]
    told = Told.ALL if is_uid else Told.HELD
    if session.settle(answer, "", told, may_expunge=is_uid) and "SAVE" in step.returns:
        await _fetch_saved(session, view)


def _found(session: Session, step: s.Search, answer: Answer, *, is_uid: bool) -> Found:
    """What was found: told by SEARCH, or by ESEARCH with RETURN and in rev2 (RFC 9051 §6.4.4)."""
    if not (step.returns or session.is_rev2):
        (line,) = (one for one in answer.lines if isinstance(one, Found))
        return line
    (told,) = (one for one in answer.lines if isinstance(one, Searched))
    require(told.tag == answer.end.tag, "ESEARCH has the command's tag", told)
    return check_summary(told, is_uid=is_uid)


async def _fetch_saved(session: Session, view: View) -> None:
    """`$` is what was found, less what was removed (RFC 5182 §2.1)."""
    answer = await session.command(b"UID FETCH $ (UID)", is_selected=True)
    told = [one.uid for one in answer.lines if isinstance(one, Fetched) and one.flags is None and one.mod_seq is None]
    wanted = [uid for uid in view.uids if uid in view.saved]
    require(told == wanted, "$ is what was saved", (told, wanted))
    session.settle(answer, "", Told.ALL, by_uid=wanted)
