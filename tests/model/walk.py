"""Each kind of step: what is sent, what the model makes of it, what the answer must be."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from model import steps as s
from model.checks import (
    NO_UID,
    check_changed,
    check_fetched,
    check_found,
    check_found_since,
    check_stored,
    message,
    named,
    store_command,
    without_modified,
)
from model.client import Answer, Condition, Fetched, Found, Listed, Numbered, Response, Statused
from model.model import INBOX, Account, Mailbox, View, combined, ranges, require
from model.session import Session, Told
from model.workers import Workers

FIRST_REMOVED: Final = ("Drafts", "Sent", "Junk", "Trash")  # so that the sessions meet more often
LINES_SHOWN: Final = 12  # of each session, for a failure

_LIST: Final = b'LIST "" *'
_ITEMS: Final = {
    "flags": b"(UID FLAGS)",
    "changed": b"(UID FLAGS)",
    "size": b"(UID RFC822.SIZE)",
    "subject": b"(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])",
    "body": b"(UID BODY[TEXT])",
}


def _status_of(path: str, more: str = "") -> bytes:
    return f'STATUS "{path}" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN{more})'.encode()


class Walk:
    """Sessions of one account and the model of it; `step` does one step and compares."""

    def __init__(self, workers: Workers, user: str, account_id: int) -> None:
        self.workers = workers
        self.account = Account()
        self.account_id = account_id
        addresses, account = workers.addresses, self.account
        self.sessions = [
            Session(addresses[n % s.WORKERS], user, account, is_aware=n in s.AWARE) for n in range(s.SESSIONS)
        ]
        # never select: they ask STATUS and LIST
        self.observers = [Session(addresses[n], user, account, is_aware=True) for n in range(s.WORKERS)]
        self.touched: set[str] = set()
        self.is_tree_touched = True
        self.is_void = False  # the last step had nothing to do

    async def start(self) -> None:
        """Sign everybody in."""
        for session in (*self.sessions, *self.observers):
            await session.connect()
        for name in FIRST_REMOVED:
            await self.observers[0].connection.ok(b"DELETE %b" % name.encode())
            self.account.delete(name)
        self.touched = set(self.account.mailboxes)
        await self.compare(0)

    def close(self) -> None:
        """Drop all connections."""
        for session in (*self.sessions, *self.observers):
            session.connection.close()

    def said(self) -> list[str]:
        """The last lines of each session, for a failure."""
        return [
            f"{n} {line!r}" for n, one in enumerate(self.sessions) for line in list(one.connection.log)[-LINES_SHOWN:]
        ]

    def is_anybody_behind(self, step: s.Step) -> bool:
        """Whether a session other than the step's own holds changes that it has not seen."""
        return any(one.is_behind for n, one in enumerate(self.sessions) if n != step.session)

    async def step(self, step: s.Step, number: int) -> None:
        """Do one step, then compare what everybody sees.

        Raises:
            Difference: the server and the model disagree.
        """
        session = self.sessions[step.session]
        self.is_void = False
        if session.is_idle:
            await session.end_idle()
        session.must_be_silent()
        await _DOERS[type(step)](self, session, step)
        await self.compare(number)

    async def compare(self, number: int) -> None:
        """What is seen from outside: counts of what was touched, the tree, the idling clients."""
        require(not self.workers.bugs, "the server meets no bug", self.workers.bugs)
        observer = self.observers[number % s.WORKERS].connection
        for path in sorted(self.touched & self.account.mailboxes.keys()):
            self.compare_status(await observer.ok(_status_of(path, " HIGHESTMODSEQ")), path)
        self.touched.clear()
        if self.is_tree_touched:
            self.compare_list(await observer.ok(_LIST))
            self.is_tree_touched = False
        for session in self.sessions:
            if session.is_idle:
                await session.hear_idle()
            else:
                session.must_be_silent()
                await session.renew()  # after STATUS, which says what SELECT must say

    def compare_status(self, lines: Sequence[Response], path: str) -> None:
        """STATUS tells the model's counters."""
        mailbox = self.account.mailboxes[path]
        (line,) = (one for one in lines if isinstance(one, Statused))
        values = dict(line.values)
        self.account.learn_uid_validity(mailbox, values.pop("UIDVALIDITY"))
        if "HIGHESTMODSEQ" in values:
            mailbox.learn_highest(values.pop("HIGHESTMODSEQ"))
        wanted = {"MESSAGES": len(mailbox.messages), "UIDNEXT": mailbox.uid_next, "UNSEEN": mailbox.unseen()}
        require((line.path, values) == (path, wanted), "STATUS counts", (line, wanted))

    def compare_list(self, lines: Sequence[Response]) -> None:
        """LIST tells the model's tree."""
        listed = [one for one in lines if isinstance(one, Listed)]
        found = {one.path: one.attributes for one in listed}
        require(len(found) == len(listed), "LIST tells each name once", listed)
        wanted = {
            path: frozenset({"\\HasChildren" if self.account.has_children(path) else "\\HasNoChildren", mailbox.use})
            - {""}
            for path, mailbox in self.account.mailboxes.items()
        }
        require(found == wanted, "LIST tells the mailboxes", (found, wanted))

    def place(self, place: s.Place) -> str:
        """The path that a step means."""
        if isinstance(place, str):
            return place
        paths = sorted(self.account.mailboxes)
        return paths[place % len(paths)]

    def touch(self, mailbox: Mailbox) -> None:
        """Have the mailbox compared after the step, if it still stands somewhere."""
        self.touched.update(path for path, one in self.account.mailboxes.items() if one is mailbox)

    # Steps that change messages

    async def store(self, session: Session, step: s.Store) -> None:
        view = await session.selected()
        which = named(view, step.picks, is_uid=step.is_uid, is_open=step.is_open)
        if self._is_void(which.uids) and not step.is_uid:
            return
        since = self._since(view, which.uids, step.since) if session.is_aware else None
        answer = await session.connection.command(store_command(step, which, since))
        if view.is_read_only:
            session.settle(answer, "NOPERM", Told.SOME, may_expunge=False)
            return
        there = [uid for uid in which.uids if uid in view.mailbox.messages]
        failed = [uid for uid in there if since is not None and view.mailbox.is_since(uid, since)]
        changed = [uid for uid in there if uid not in failed]
        for uid in changed:
            old = view.mailbox.messages[uid].flags
            view.mailbox.set_flags(uid, combined(old, step.mode, frozenset(step.flags)))
        self.touch(view.mailbox)
        if session.is_orphan:
            return
        if since is not None:
            answer = without_modified(view, which.uids, failed, answer, is_uid=step.is_uid)
        check_stored(view, step, which.uids, changed, answer, is_conditional=since is not None)
        told = Told.ALL if step.is_uid else Told.HELD
        session.settle(answer, "", told, may_expunge=step.is_uid, by_uid=which.uids if step.is_uid else ())

    def _since(self, view: View, uids: list[int], pick: int | None) -> int | None:
        """A mod-sequence that was told of this mailbox, and of which the model knows whether the messages are newer."""
        mailbox = view.mailbox
        if pick is None or not mailbox.highest:
            return None
        exact = [one for one in mailbox.bounds.values() if one.high == one.low + 1]
        told = sorted({mailbox.highest, *(one.high for one in exact), *(one.low for one in exact if one.low)})
        since = told[-1 - pick % len(told)]
        is_clear = all(mailbox.is_since(uid, since) is not None for uid in uids if uid in mailbox.messages)
        return since if is_clear else mailbox.highest

    def _is_void(self, uids: list[int]) -> bool:
        self.is_void = not uids
        return self.is_void

    async def expunge(self, session: Session, step: s.Expunge) -> None:
        await self._remove(session, b"EXPUNGE", None)

    async def uid_expunge(self, session: Session, step: s.UidExpunge) -> None:
        view = await session.selected()
        uids = named(view, step.picks, is_uid=True, is_open=step.is_open).uids
        await self._remove(session, b"UID EXPUNGE " + (ranges(uids).encode() or NO_UID), uids)

    async def _remove(self, session: Session, command: bytes, only: list[int] | None) -> None:
        view = await session.selected()
        uids = [uid for uid in view.mailbox.deleted() if only is None or uid in only]
        self.is_void = not uids
        answer = await session.connection.command(command)
        if session.is_orphan:
            return
        if view.is_read_only:
            session.settle(answer, "NOPERM", Told.SOME)
            return
        view.mailbox.remove(uids)
        self.touch(view.mailbox)
        session.settle(answer, "", Told.ALL)

    async def copy(self, session: Session, step: s.Copy) -> None:
        await self._transfer(session, step, is_move=False)

    async def move(self, session: Session, step: s.Move) -> None:
        await self._transfer(session, step, is_move=True)

    async def _transfer(self, session: Session, step: s.Copy | s.Move, *, is_move: bool) -> None:
        view = await session.selected()
        which = named(view, step.picks, is_uid=step.is_uid)
        if self._is_void(which.uids) and not step.is_uid:
            return
        path = self.place(step.mailbox)
        target = self.account.mailboxes.get(path)
        word = (b"UID " if step.is_uid else b"") + (b"MOVE" if is_move else b"COPY")
        answer = await session.connection.command(b'%b %b "%b"' % (word, which.text, path.encode()))
        if session.is_orphan:
            await self._adopt(view.mailbox, which.uids, path, is_move=is_move)
            return
        told = Told.ALL if step.is_uid or is_move else Told.HELD
        if is_move and view.is_read_only:
            session.settle(answer, "NOPERM", Told.SOME)
        elif target is None:
            session.settle(answer, "TRYCREATE", Told.SOME)
        elif is_move and target is view.mailbox:
            session.settle(answer, "CANNOT", Told.SOME)
        else:
            there = [uid for uid in which.uids if uid in view.mailbox.messages]
            self._check_copyuid(answer, target, there, is_move=is_move)
            self._copy(view.mailbox, there, target, is_move=is_move)
            session.settle(answer, "", told)

    def _copy(self, source: Mailbox, uids: list[int], target: Mailbox, *, is_move: bool) -> None:
        copied = [source.messages[uid] for uid in uids]
        for one in copied:
            target.add(one.number, one.flags)
        if is_move:
            source.remove(uids)
        self.touch(source)
        self.touch(target)

    def _check_copyuid(self, answer: Answer, target: Mailbox, uids: list[int], *, is_move: bool) -> None:
        """COPYUID: RFC 4315 §3; with MOVE in an untagged OK before the EXPUNGE responses (RFC 6851 §4.3)."""
        codes = [one for one in (*answer.lines, answer.end) if isinstance(one, Condition) and one.code == "COPYUID"]
        if not uids:
            require(not codes, "COPYUID names copied messages", codes)
            return
        new = range(target.uid_next, target.uid_next + len(uids))
        wanted = f"{target.uid_validity} {ranges(uids)} {ranges(new)}"
        require([one.argument for one in codes] == [wanted], "COPYUID tells the uids", (codes, wanted))
        if is_move:
            require(answer.lines[0] is codes[0], "COPYUID comes before EXPUNGE", answer.lines)

    async def _adopt(self, source: Mailbox, uids: list[int], path: str, *, is_move: bool) -> None:
        """Out of a removed mailbox: its messages may be there until the sweeper comes; all are copied or none.

        Their flags are whatever they are: a STORE before may have been carried out or refused.
        """
        target = self.account.mailboxes.get(path)
        there = [uid for uid in uids if uid in source.messages]
        if target is None or not there:
            return
        observer = self.observers[0].connection
        (line,) = (one for one in await observer.ok(_status_of(path)) if isinstance(one, Statused))
        if line.values["MESSAGES"] == len(target.messages):
            return
        new = range(target.uid_next, target.uid_next + len(there))
        self._copy(source, there, target, is_move=is_move)
        await observer.ok(f'EXAMINE "{path}"'.encode())
        for told in await observer.ok(b"UID FETCH %b FLAGS" % ranges(new).encode()):
            if isinstance(told, Fetched) and told.uid is not None and told.flags is not None:
                target.set_flags(told.uid, told.flags)
        await observer.ok(b"UNSELECT")

    async def append(self, session: Session, step: s.Append) -> None:
        path = self.place(step.mailbox)
        target = self.account.mailboxes.get(path)
        numbers = [self.account.next_number() for _ in range(step.count)]
        parts = [f'APPEND "{path}"'.encode()]
        for number in numbers:
            body = message(number)
            parts.append(b" (%b) {%d+}\r\n%b" % (" ".join(step.flags).encode(), len(body), body))
        answer = await session.connection.command(b"".join(parts))
        if target is None:
            session.settle(answer, "TRYCREATE", Told.SOME)
            return
        uids = [target.add(number, frozenset(step.flags)) for number in numbers]
        self.touch(target)
        if session.settle(answer, "", Told.ALL):
            wanted = ("APPENDUID", f"{target.uid_validity} {ranges(uids)}")
            require((answer.end.code, answer.end.argument) == wanted, "APPENDUID tells the uids", (answer.end, wanted))

    async def deliver(self, session: Session, step: s.Deliver) -> None:
        number = self.account.next_number()
        await self.workers.deliver(step.session % s.WORKERS, self.account_id, message(number))
        self.account.mailboxes[INBOX].add(number, frozenset())
        self.touch(self.account.mailboxes[INBOX])

    # Steps that change the tree

    async def create(self, session: Session, step: s.Create) -> None:
        answer = await session.connection.command(f'CREATE "{step.name}"'.encode())
        self._settle_tree(session, answer, self.account.create(step.name))

    async def delete(self, session: Session, step: s.Delete) -> None:
        path = self.place(step.mailbox)
        own = session.view is not None and session.view.mailbox is self.account.mailboxes.get(path)
        answer = await session.connection.command(f'DELETE "{path}"'.encode())
        refusal = self.account.delete(path)
        if own and not refusal:
            session.view = None  # the server answers OK and leaves the session without a mailbox
        self._settle_tree(session, answer, refusal)

    async def rename(self, session: Session, step: s.Rename) -> None:
        path = self.place(step.mailbox)
        if path == INBOX:
            self.is_void = True
            return
        answer = await session.connection.command(f'RENAME "{path}" "{step.name}"'.encode())
        self._settle_tree(session, answer, self.account.rename(path, step.name))

    def _settle_tree(self, session: Session, answer: Answer, refusal: str) -> None:
        self.is_void = bool(refusal)
        self.is_tree_touched = True
        self.touched |= self.account.mailboxes.keys()
        session.settle(answer, refusal, Told.SOME if refusal else Told.ALL)

    # Steps that look

    async def select(self, session: Session, step: s.Select) -> None:
        await session.select(self.place(step.mailbox), fetches=step.fetches, is_read_only=step.is_read_only)
        self.is_void = session.view is None

    async def unselect(self, session: Session, step: s.Unselect) -> None:
        await session.selected()
        session.expect(await session.connection.command(b"UNSELECT"), "")
        session.view = None

    async def close_mailbox(self, session: Session, step: s.Close) -> None:
        view = await session.selected()
        answer = await session.connection.command(b"CLOSE")
        if session.is_orphan:
            session.view = view if answer.end.status != "OK" else None
            return
        session.expect(answer, "")
        # RFC 3501 §6.4.2: no EXPUNGE responses
        require(not any(isinstance(one, Numbered) for one in answer.lines), "CLOSE tells nothing", answer.lines)
        if not view.is_read_only:
            view.mailbox.remove(view.mailbox.deleted())
        self.touch(view.mailbox)
        session.view = None

    async def noop(self, session: Session, step: s.Noop) -> None:
        await session.selected()
        session.settle(await session.connection.command(b"CHECK" if step.is_check else b"NOOP"), "", Told.ALL)

    async def idle(self, session: Session, step: s.Idle) -> None:
        await session.selected()
        await session.begin_idle()

    async def status(self, session: Session, step: s.Status) -> None:
        path = self.place(step.mailbox)
        answer = await session.connection.command(_status_of(path))
        if path not in self.account.mailboxes:
            session.settle(answer, "NONEXISTENT", Told.SOME)
        elif session.settle(answer, "", Told.SOME):
            self.compare_status(answer.lines, path)

    async def list_all(self, session: Session, step: s.ListAll) -> None:
        answer = await session.connection.command(_LIST)
        if session.settle(answer, "", Told.SOME):
            self.compare_list(answer.lines)

    async def fetch(self, session: Session, step: s.Fetch) -> None:
        view = await session.selected()
        which = named(view, step.picks, is_uid=step.is_uid, is_open=step.is_open)
        if self._is_void(which.uids) and not step.is_uid:
            return
        word = b"UID FETCH" if step.is_uid else b"FETCH"
        since = self._since(view, which.uids, step.since) if session.is_aware else None
        modifier = b"" if since is None else b" (CHANGEDSINCE %d)" % since
        answer = await session.connection.command(b"%b %b %b%b" % (word, which.text, _ITEMS[step.what], modifier))
        if step.what == "body" and not view.is_read_only:
            for uid in which.uids:
                if (held := view.mailbox.messages.get(uid)) is not None:
                    view.mailbox.set_flags(uid, held.flags | {"\\Seen"})
            self.touch(view.mailbox)
        if session.is_orphan:
            return
        if since is None:
            check_fetched(view, which.uids, answer, step.what)
        else:
            check_changed(view, which.uids, answer, since)
        told = Told.ALL if step.is_uid else Told.HELD
        by_uid, is_asked = which.uids if step.is_uid else (), since is None and step.what in ("flags", "changed")
        session.settle(answer, "", told, may_expunge=step.is_uid, by_uid=by_uid, is_asked=is_asked)

    async def search(self, session: Session, step: s.Search) -> None:
        view = await session.selected()
        if step.key == "since" and not session.is_aware:
            step = replace(step, key="ALL")
        numbers = [one.number for one in view.mailbox.messages.values()]
        number = numbers[step.pick % len(numbers)] if numbers else 0
        key = f'SUBJECT "test {number}."' if step.key == "picked" else step.key
        since = self._since(view, view.uids, step.pick) or 1
        if step.key == "since":
            key = f"MODSEQ {since + 1}"
        word = b"UID SEARCH" if step.is_uid else b"SEARCH"
        answer = await session.connection.command(b"%b %b" % (word, key.encode()))
        if session.is_orphan:
            return
        if answer.end.status == "OK":
            (line,) = (one for one in answer.lines if isinstance(one, Found))
            if step.key == "since":
                check_found_since(view, line, since, is_uid=step.is_uid)
            else:
                check_found(view, line, step, number)
        told = Told.ALL if step.is_uid else Told.HELD
        session.settle(answer, "", told, may_expunge=step.is_uid)


# Any: each function takes the kind of step that is its key
_DOERS: Final[dict[type[s.Step], Callable[[Walk, Session, Any], Awaitable[None]]]] = {
    s.Select: Walk.select,
    s.Unselect: Walk.unselect,
    s.Close: Walk.close_mailbox,
    s.Store: Walk.store,
    s.Fetch: Walk.fetch,
    s.Search: Walk.search,
    s.Expunge: Walk.expunge,
    s.UidExpunge: Walk.uid_expunge,
    s.Copy: Walk.copy,
    s.Move: Walk.move,
    s.Append: Walk.append,
    s.Deliver: Walk.deliver,
    s.Create: Walk.create,
    s.Delete: Walk.delete,
    s.Rename: Walk.rename,
    s.Idle: Walk.idle,
    s.Noop: Walk.noop,
    s.Status: Walk.status,
    s.ListAll: Walk.list_all,
}
