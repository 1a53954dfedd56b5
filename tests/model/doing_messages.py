"""Steps that change messages: what is sent, what the model makes of it, what the answer must be."""

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from model import steps as s
from model.checks import NO_UID, Named, check_stored, message, named, store_command, without_modified
from model.client import Answer, Condition, Fetched, Numbered, Statused, Vanished
from model.model import SEEN, Mailbox, View, combined, permitted, ranges, require, right_to
from model.session import Session, Told
from model.world import INBOX

if TYPE_CHECKING:
    from model.walk import Walk

_EVERY_FLAG: Final = (SEEN, "\\Deleted", "\\Flagged")  # one for each right to change flags


def since_of(view: View, uids: list[int], pick: int | None) -> int | None:
    """A mod-sequence that was told of this mailbox, and of which the model knows whether the messages are newer."""
    mailbox = view.mailbox
    if pick is None or not mailbox.highest:
        return None
    exact = [one for one in mailbox.bounds.values() if one.high == one.low + 1]
    told = sorted({mailbox.highest, *(one.high for one in exact), *(one.low for one in exact if one.low)})
    since = told[-1 - pick % len(told)]
    is_clear = all(mailbox.is_since(uid, since) is not None for uid in uids if uid in mailbox.messages)
    return since if is_clear else mailbox.highest


async def store(walk: "Walk", session: Session, step: s.Store) -> None:
    """STORE"""
    view = await session.selected()
    if session.is_uid_only and not step.is_uid:
        await session.must_name_by_uid(b"STORE 1 +FLAGS (\\Deleted)")
    step = replace(step, is_uid=step.is_uid or session.is_uid_only)
    which = named(view, step.picks, is_uid=step.is_uid, is_open=step.is_open, is_saved=step.is_saved)
    walk.is_void = not which.uids
    if walk.is_void and not step.is_uid:
        return
    since = since_of(view, which.uids, step.since) if session.is_aware else None
    mailbox, reader = view.mailbox, view.reader
    there = [uid for uid in which.uids if uid in mailbox.messages]
    failed = [uid for uid in there if since is not None and mailbox.is_since(uid, since)]
    changed = [uid for uid in there if uid not in failed]
    rights = view.rights
    touched = step.flags if step.mode else _EVERY_FLAG
    is_void = since is not None and not changed
    is_refused = bool(which.uids and touched and not is_void and not any(right_to(flag) in rights for flag in touched))
    answer = await session.command(store_command(step, which, since), is_selected=True)
    if view.is_read_only or is_refused:
        session.settle(answer, "NOPERM", Told.SOME, may_expunge=False)
        walk.is_void = True
        return
    for uid in changed:
        old = mailbox.flags(uid, reader)
        mailbox.set_flags(uid, permitted(old, combined(old, step.mode, frozenset(step.flags)), rights), reader)
    walk.touch(mailbox)
    if session.is_orphan:
        return
    # what the reader may not change is told, asked for or not
    step = replace(step, is_silent=step.is_silent and all(right_to(flag) in rights for flag in touched))
    if since is not None:
        answer = without_modified(view, which.uids, failed, answer, is_uid=step.is_uid)
    _settle_store(session, view, step, which, changed, answer, is_conditional=since is not None)


def _settle_store(
    session: Session,
    view: View,
    step: s.Store,
    which: Named,
    changed: list[int],
    answer: Answer,
    *,
    is_conditional: bool,
) -> None:
    check_stored(view, step, which.uids, changed, answer, is_conditional=is_conditional)
    told = Told.ALL if step.is_uid else Told.HELD
    session.settle(answer, "", told, may_expunge=step.is_uid, by_uid=which.uids if step.is_uid else ())


async def expunge(walk: "Walk", session: Session, step: s.Expunge) -> None:
    """EXPUNGE"""
    await _remove(walk, session, b"EXPUNGE", None)


async def uid_expunge(walk: "Walk", session: Session, step: s.UidExpunge) -> None:
    """UID EXPUNGE"""
    view = await session.selected()
    which = named(view, step.picks, is_uid=True, is_open=step.is_open, is_saved=step.is_saved)
    shown = b"$" if step.is_saved else ranges(which.uids).encode() or NO_UID
    await _remove(walk, session, b"UID EXPUNGE " + shown, which.uids)


async def _remove(walk: "Walk", session: Session, command: bytes, only: list[int] | None) -> None:
    view = await session.selected()
    uids = [uid for uid in view.mailbox.deleted() if only is None or uid in only]
    walk.is_void = not uids
    answer = await session.command(command, is_selected=True)
    if session.is_orphan:
        return
    if view.is_read_only or "e" not in view.rights:
        session.settle(answer, "NOPERM", Told.SOME)
        walk.is_void = True
        return
    view.mailbox.remove(uids)
    walk.touch(view.mailbox)
    session.settle(answer, "", Told.ALL)


async def copy(walk: "Walk", session: Session, step: s.Copy) -> None:
    """COPY"""
    await _transfer(walk, session, step, is_move=False)


async def move(walk: "Walk", session: Session, step: s.Move) -> None:
    """MOVE"""
    await _transfer(walk, session, step, is_move=True)


async def _transfer(walk: "Walk", session: Session, step: s.Copy | s.Move, *, is_move: bool) -> None:
    view = await session.selected()
    is_uid = step.is_uid or session.is_uid_only
    which = named(view, step.picks, is_uid=is_uid)
    walk.is_void = not which.uids
    if walk.is_void and not is_uid:
        return
    name = walk.place(session, step.mailbox)
    refusal, target = walk.world.open(session.reader, name, "i")
    word = (b"UID " if is_uid else b"") + (b"MOVE" if is_move else b"COPY")
    if session.is_uid_only and not step.is_uid:
        await session.must_name_by_uid(b"%b 1 INBOX" % (b"MOVE" if is_move else b"COPY"))
    answer = await session.command(b'%b %b "%b"' % (word, which.text, name.encode()), is_selected=True)
    walk.world.met["messages are named that are gone"] += any(uid not in view.mailbox.messages for uid in which.uids)
    if session.is_orphan:
        await _adopt(walk, session, view.mailbox, which.uids, name, target, is_move=is_move)
        return
    if is_move and view.is_read_only:
        refusal = "NOPERM"
    elif refusal == "NONEXISTENT":
        refusal = "TRYCREATE"
    elif not refusal and is_move and which.uids and not {"t", "e"} <= view.rights:
        refusal = "NOPERM"
    if refusal or target is None:
        session.settle(answer, refusal, Told.SOME)
        walk.is_void = True
        return
    there = [uid for uid in which.uids if uid in view.mailbox.messages]
    more = {view.mailbox.messages[uid].key for uid in there} if target.owner != view.mailbox.owner else ()
    if _is_over_quota(walk, target, len(more), answer):
        walk.world.met["COPY or MOVE exceeds the quota"] += 1
        session.settle(answer, "OVERQUOTA", Told.SOME)
        walk.is_void = True
        return
    _check_copyuid(answer, target, there, is_move=is_move)
    _copy(walk, session.reader, view.mailbox, there, target, is_move=is_move)
    session.settle(answer, "", Told.ALL if is_uid or is_move else Told.HELD)


def _is_over_quota(walk: "Walk", target: Mailbox, more: int, answer: Answer) -> bool:
    """Whether so many more messages have no room, which the answer says where the sweeper decides."""
    if not more:
        return False
    is_over = walk.world.accounts[target.owner].is_over(more)
    return (answer.end.status, answer.end.code) == ("NO", "OVERQUOTA") if is_over is None else is_over


def _copy(walk: "Walk", reader: int, source: Mailbox, uids: list[int], target: Mailbox, *, is_move: bool) -> None:
    """Flags go along as the reader sees them and may set them there."""
    copied = [(source.messages[uid], source.flags(uid, reader)) for uid in uids]
    keys = {one.key: one.key if source.owner == target.owner else 0 for one, _ in copied}
    for one, flags in copied:
        kept = permitted(frozenset(), flags, target.rights(reader))
        if is_move and source.owner == target.owner:
            target.add_moved(one, kept, reader)
            continue
        uid = target.add(one.number, kept, reader, key=keys[one.key])
        keys[one.key] = target.messages[uid].key
    if is_move:
        source.remove(uids)
    walk.touch(source)
    walk.touch(target)


def _check_copyuid(answer: Answer, target: Mailbox, uids: list[int], *, is_move: bool) -> None:
    """COPYUID: RFC 4315 §3; with MOVE in an untagged OK before the EXPUNGE responses (RFC 6851 §4.3)."""
    codes = [one for one in (*answer.lines, answer.end) if isinstance(one, Condition) and one.code == "COPYUID"]
    if not uids:
        require(not codes, "COPYUID names copied messages", codes)
        return
    new = range(target.uid_next, target.uid_next + len(uids))
    wanted = f"{target.uid_validity} {ranges(uids)} {ranges(new)}"
    require([one.argument for one in codes] == [wanted], "COPYUID tells the uids", (codes, wanted))
    if is_move:
        at = answer.lines.index(codes[0])
        is_before = not any(isinstance(one, Numbered | Vanished) for one in answer.lines[:at])
        require(is_before, "COPYUID comes before EXPUNGE", answer.lines)


async def _adopt(
    walk: "Walk",
    session: Session,
    source: Mailbox,
    uids: list[int],
    name: str,
    target: Mailbox | None,
    *,
    is_move: bool,
) -> None:
    """Out of a removed mailbox: its messages may be there until the sweeper comes; all are copied or none.

    Their flags are whatever they are: a STORE before may have been carried out or refused.
    """
    there = [uid for uid in uids if uid in source.messages]
    if target is None or not there:
        return
    account, path = walk.world.locate(session.reader, name)
    observer = walk.observers[account.number][0].connection
    (line,) = (one for one in await observer.ok(f'STATUS "{path}" (MESSAGES)'.encode()) if isinstance(one, Statused))
    if line.values["MESSAGES"] == len(target.messages):
        return
    new = range(target.uid_next, target.uid_next + len(there))
    _copy(walk, session.reader, source, there, target, is_move=is_move)
    for reader in {account.number, session.reader}:
        observer = walk.observers[reader][0].connection
        own_name = walk.world.name(reader, account, path)
        if "r" not in target.rights(reader):
            continue
        await observer.ok(f'EXAMINE "{own_name}"'.encode())
        for told in await observer.ok(b"UID FETCH %b FLAGS" % ranges(new).encode()):
            if isinstance(told, Fetched) and told.uid is not None and told.flags is not None:
                target.set_flags(told.uid, told.flags, reader)
        await observer.ok(b"UNSELECT")


async def append(walk: "Walk", session: Session, step: s.Append) -> None:
    """APPEND"""
    name = walk.place(session, step.mailbox)
    refusal, target = walk.world.open(session.reader, name, "i")
    numbers = [walk.world.next_number() for _ in range(step.count)]
    parts = [f'APPEND "{name}"'.encode()]
    for number in numbers:
        body = message(number)
        parts.append(b" (%b) {%d+}\r\n%b" % (" ".join(step.flags).encode(), len(body), body))
    answer = await session.command(b"".join(parts))
    if target is None:
        session.settle(answer, "TRYCREATE" if refusal == "NONEXISTENT" else refusal, Told.SOME)
        walk.is_void = True
        return
    if _is_over_quota(walk, target, step.count, answer):
        walk.world.met["APPEND exceeds the quota"] += 1
        session.settle(answer, "OVERQUOTA", Told.SOME)
        walk.is_void = True
        return
    flags = permitted(frozenset(), frozenset(step.flags), target.rights(session.reader))
    uids = [target.add(number, flags, session.reader) for number in numbers]
    walk.touch(target)
    if session.settle(answer, "", Told.ALL):
        wanted = ("APPENDUID", f"{target.uid_validity} {ranges(uids)}")
        require((answer.end.code, answer.end.argument) == wanted, "APPENDUID tells the uids", (answer.end, wanted))


async def deliver(walk: "Walk", session: Session, step: s.Deliver) -> None:
    """A message arrives."""
    number, account = walk.world.next_number(), walk.world.accounts[session.reader]
    args = (step.session % s.WORKERS, walk.account_ids[session.reader], message(number))
    if is_over := not await walk.workers.deliver(*args):
        require(account.is_over(1) is not False, "a message is refused only over the quota", account.messages_max)
    else:
        require(account.is_over(1) is not True, "a message over the quota is refused", account.messages_max)
    walk.is_void = is_over
    if is_over:
        return
    account.mailboxes[INBOX].add(number, frozenset(), account.number)
    walk.touch(account.mailboxes[INBOX])


async def close_mailbox(walk: "Walk", session: Session, step: s.Close) -> None:
    """CLOSE"""
    view = await session.selected()
    answer = await session.command(b"CLOSE", is_selected=True)
    if session.is_orphan:
        if answer.end.status == "OK":
            session.leave()
        return
    session.expect(answer, "")
    # RFC 3501 §6.4.2: no EXPUNGE responses
    told = [one for one in answer.lines if isinstance(one, Numbered | Vanished)]
    require(not told, "CLOSE tells nothing", answer.lines)
    if not view.is_read_only and "e" in view.rights:
        view.mailbox.remove(view.mailbox.deleted())
    walk.touch(view.mailbox)
    session.leave()
