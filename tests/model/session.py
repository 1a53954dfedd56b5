"""One session of the walk: its connection, what it was told, and the comparison of each answer with the model."""

from collections.abc import Collection, Iterable
from enum import Enum, auto
from typing import Final

from model.client import (
    Answer,
    Condition,
    Connection,
    Fetched,
    Listed,
    Numbered,
    Offered,
    Response,
    Vanished,
    parse,
)
from model.model import SEEN, Cache, Mailbox, View, ranges, require
from model.workers import PASSWORD
from model.world import World

IDLE_S = 8.0  # a hint takes milliseconds; the poll for lost ones a second
SYSTEM_FLAGS: Final = {"\\Answered": "w", "\\Flagged": "w", "\\Draft": "w", "\\Deleted": "t", SEEN: "s"}
CHANGING: Final = frozenset("ietw")  # rights without which SELECT says READ-ONLY


class Told(Enum):
    """What a client knows after a command."""

    ALL = auto()  # a sync point: exactly the mailbox
    HELD = auto()  # the same, unless a removal is held back (INV-8)
    SOME = auto()  # nothing is owed


class Closed(Exception):
    """The right to read the selected mailbox was taken back, and the command refused for it."""


class Session:
    """A client of one account at one worker. Commands about messages select INBOX first where nothing is selected.

    `modes`: what it enables, of CONDSTORE, QRESYNC, IMAP4rev2, UIDONLY, and COMPRESS; with NOTIFY it is told of the
    selected mailbox at any time.
    """

    def __init__(self, address: tuple[str, int], world: World, reader: int, modes: Iterable[str]) -> None:
        self.world = world
        self.reader = reader
        self.modes = frozenset(modes)
        self.view: View | None = None
        self.connection = Connection()
        self.caches: dict[str, Cache] = {}  # by the name the client knows
        self.renewals = 0  # connections lost by BYE
        self._selected_name = ""
        self._address = address
        self._idle_tag = ""
        self._idle_lines: list[Response] = []

    async def connect(self) -> None:
        """Sign in on a new connection, in the session's modes."""
        self.connection = await Connection.open(self._address)
        self.view = None
        self._idle_tag = ""
        self._idle_lines = []
        user = self.world.accounts[self.reader].address
        await self.connection.ok(b"LOGIN %b %b" % (user.encode(), PASSWORD.encode()))
        if "COMPRESS" in self.modes:
            await self.connection.compress()
        if words := sorted(self.modes - {"COMPRESS", "NOTIFY"}):
            await self.connection.ok(b"ENABLE %b" % " ".join(words).encode())
        if self.is_watching:
            await self.connection.ok(b"NOTIFY SET (selected (MessageNew MessageExpunge FlagChange))")

    @property
    def is_aware(self) -> bool:
        """Whether it knows mod-sequences (RFC 7162 §3.1)."""
        return bool(self.modes & {"CONDSTORE", "QRESYNC"})

    @property
    def is_uid_only(self) -> bool:
        """Whether it names messages by uid alone (RFC 9586)."""
        return "UIDONLY" in self.modes

    @property
    def tells_vanished(self) -> bool:
        """Whether removals come as VANISHED."""
        return bool(self.modes & {"QRESYNC", "UIDONLY"})

    @property
    def is_rev2(self) -> bool:
        """Whether it has enabled IMAP4rev2."""
        return "IMAP4rev2" in self.modes

    @property
    def is_watching(self) -> bool:
        """Whether it is told of changes at any time (RFC 5465)."""
        return "NOTIFY" in self.modes

    @property
    def is_idle(self) -> bool:
        """Whether IDLE is under way."""
        return bool(self._idle_tag)

    @property
    def is_orphan(self) -> bool:
        """Whether the selected mailbox, its own, was removed: any command may end in BYE."""
        return self.view is not None and self.view.mailbox.is_removed and not self.view.is_closed

    @property
    def is_behind(self) -> bool:
        """Whether there is something that the client was not told."""
        return self.view is not None and self.view.is_behind

    async def selected(self) -> View:
        """The view, of INBOX where nothing is selected."""
        if self.view is None:
            await self.select("INBOX", fetches=True, is_read_only=False)
        assert self.view is not None
        return self.view

    def leave(self) -> None:
        """Nothing is selected any more; a client that may come back keeps what it knows."""
        if self.view is not None and "QRESYNC" in self.modes and self.view.highest:
            self.caches[self._selected_name] = self.view.cache()
        self.view = None

    async def command(self, command: bytes, *, is_selected: bool = False, leaves: bool = False) -> Answer:
        """The answer to a command; `is_selected`: one that needs a selected mailbox, `leaves`: SELECT.

        Raises:
            Closed: the mailbox can no longer be read, and so was closed.
        """
        is_closed = self.view is not None and self.view.is_closed
        answer = await self.connection.command(command)
        if is_closed:
            first = answer.lines[0] if answer.lines else None
            is_told = isinstance(first, Condition) and first.code == "CLOSED"
            self.world.met["a right is lost while a mailbox is selected"] += 1
            require(is_told, "the loss of the right to read closes the mailbox", (command, answer))
            answer = answer._replace(lines=answer.lines[1:])
            self.leave()
            if is_selected:
                require((answer.end.status, answer.end.code) == ("NO", "NOPERM"), "a lost right is denied", answer.end)
                raise Closed
        if not leaves:
            self._note_mod_seqs([*self._idle_lines, *answer.lines, answer.end])
        self._idle_lines = []
        return answer

    async def must_name_by_uid(self, command: bytes) -> None:
        """A command by sequence number is refused, and nothing comes of it (RFC 9586 §3)."""
        answer = await self.command(command, is_selected=True)
        told = (answer.end.status, answer.end.code)
        self.world.met["UIDONLY refuses a number"] += 1
        require(told == ("BAD", "UIDREQUIRED"), "UIDONLY refuses sequence numbers", (command, answer.end))
        for line in answer.lines:
            self.hear(line, may_expunge=self.is_watching)

    def _note_mod_seqs(self, lines: Iterable[Response]) -> None:
        """RFC 7162 §6: at the tagged response, HIGHESTMODSEQ if it came, else the highest MODSEQ."""
        told = [int(one.argument) for one in lines if isinstance(one, Condition) and one.code == "HIGHESTMODSEQ"]
        seen = [one.mod_seq or 0 for one in lines if isinstance(one, Fetched)]
        if self.view is not None and self.is_aware:
            self.view.highest = told[-1] if told else max([self.view.highest, *seen])

    async def select(self, name: str, *, fetches: bool, is_read_only: bool, resume: int = 0) -> None:
        """SELECT or EXAMINE, with the answer compared; `resume`, from 1: with QRESYNC, told more the higher it is."""
        refusal, mailbox = self.world.open(self.reader, name, "r")
        word = b"EXAMINE" if is_read_only else b"SELECT"
        cache = self.caches.get(name) if resume and "QRESYNC" in self.modes else None
        if mailbox is not None and self.view is not None and self._selected_name == name:
            cache = None  # what is kept of it is older than what is known
        known = b"" if cache is None else b" (QRESYNC (%b))" % self._known(cache, resume)
        answer = await self.command(b'%b "%b"%b' % (word, name.encode(), known), leaves=True)
        answer = answer._replace(lines=self._of_new_mailbox(answer.lines))
        self.leave()  # RFC 3501 §6.3.1: a failed SELECT leaves none selected
        if mailbox is None:
            self.expect(answer, refusal)
            return
        view = View(mailbox, self.reader, is_read_only=is_read_only)
        self.expect(answer, "", code="READ-WRITE" if view.rights & CHANGING and not is_read_only else "READ-ONLY")
        self._check_selection(answer.lines, mailbox, is_read_only=is_read_only)
        self.view, self._selected_name = view, name
        view.highest = mailbox.highest
        view.offered = next(line.flags for line in answer.lines if isinstance(line, Offered))
        self._resume(answer.lines, view, cache, is_limited=resume > 1)
        if fetches and view.uids:
            answer = await self.command(b"%b (UID FLAGS)" % (b"UID FETCH 1:*" if self.is_uid_only else b"FETCH 1:*"))
            self.settle(answer, "", Told.ALL, is_asked=True)
            require(None not in view.flags.values(), "FETCH answers for every message", answer.lines)

    def _of_new_mailbox(self, lines: list[Response]) -> list[Response]:
        """What SELECT tells behind CLOSED (RFC 7162 §3.2.11); before it comes what is new of the mailbox before."""
        for at, line in enumerate(lines):
            if isinstance(line, Condition) and line.code == "CLOSED":
                require(self.view is not None, "CLOSED comes where something was selected", line)
                return lines[at + 1 :]
        require(self.view is None, "SELECT closes the mailbox before", lines)
        return lines

    def _known(self, cache: Cache, resume: int) -> bytes:
        """What the client says of itself: UIDVALIDITY and mod-sequence, perhaps its uids, perhaps their numbers."""
        parts = [str(cache.uid_validity), str(cache.mod_seq)]
        uids = list(cache.flags)
        if resume > 1 and uids:
            parts.append(ranges(uids))
            if resume > 2 and not self.is_uid_only:
                parts.append(f"(1:{len(uids)} {ranges(uids)})" if len(uids) > 1 else f"(1 {uids[0]})")
        return " ".join(parts).encode()

    def _resume(self, lines: list[Response], view: View, cache: Cache | None, *, is_limited: bool) -> None:
        """What a client that comes back knows then (RFC 7162 §3.2.5) must be the mailbox."""
        mailbox = view.mailbox
        vanished = {uid for one in lines if isinstance(one, Vanished) for uid in one.uids}
        fetched = [one for one in lines if isinstance(one, Fetched)]
        is_earlier = all(one.is_earlier for one in lines if isinstance(one, Vanished))
        require(is_earlier, "VANISHED after SELECT is EARLIER", lines)
        if cache is None or cache.uid_validity != mailbox.uid_validity:
            self.world.met["a client comes back to another mailbox of the same name"] += cache is not None
            require(not vanished and not fetched, "a client that knows nothing is told nothing of before", lines)
            return
        require(not vanished & mailbox.messages.keys(), "VANISHED (EARLIER) names removed messages", vanished)
        gone = cache.flags.keys() - mailbox.messages.keys()
        whose = "its own" if mailbox.owner == self.reader else "another's"
        self.world.met[f"a client comes back to {whose} mailbox, and some is gone"] += bool(gone)
        require(gone <= vanished, "VANISHED (EARLIER) names what is gone", (gone, vanished))
        if is_limited and cache.flags:
            named = vanished | {one.uid for one in fetched}
            require(named <= cache.flags.keys(), "of the known uids alone is told", (named, cache.flags))
        view.flags |= {uid: flags for uid, flags in cache.flags.items() if uid in mailbox.messages}
        for line in lines:
            if isinstance(line, Fetched | Offered):
                self.hear(line, may_expunge=False)
                self.world.met[f"a client comes back to {whose} mailbox, and flags have changed"] += 1
        view.cached = set(view.uids)
        self.must_know_all()

    def _check_selection(self, lines: list[Response], mailbox: Mailbox, *, is_read_only: bool) -> None:
        numbers = {line.kind: line.number for line in lines if isinstance(line, Numbered)}
        require(numbers.get("EXISTS") == len(mailbox.messages), "SELECT tells EXISTS", (numbers, mailbox.messages))
        recent = numbers.get("RECENT", -1)
        # RFC 9051 appendix E: rev2 has no RECENT, and LIST in the answer
        is_right = recent == -1 if self.is_rev2 else 0 <= recent <= len(mailbox.messages)
        require(is_right, "SELECT tells RECENT", numbers)
        require(any(isinstance(one, Listed) for one in lines) is self.is_rev2, "rev2 alone is told LIST", lines)
        codes = {line.code: line.argument for line in lines if isinstance(line, Condition)}
        require(codes.get("UIDNEXT") == str(mailbox.uid_next), "SELECT tells UIDNEXT", (codes, mailbox.uid_next))
        account = self.world.accounts[mailbox.owner]
        account.learn_uid_validity(mailbox, int(codes.get("UIDVALIDITY", "0")))
        # RFC 7162 §3.1.2.1; asked for after every step, so no newer one can be there
        highest = int(codes.get("HIGHESTMODSEQ", "0")) or None
        require(
            highest in ({mailbox.highest} if self.is_aware else {mailbox.highest, None}),
            "SELECT tells HIGHESTMODSEQ",
            (codes, mailbox.highest),
        )
        offered = next(line.flags for line in lines if isinstance(line, Offered))
        used = {flag for uid in mailbox.messages for flag in mailbox.flags(uid, self.reader)}
        # keywords of another's mailbox are told when one is shown: its list says what there is in other mailboxes
        is_whole = used <= offered or mailbox.owner != self.reader
        require(is_whole, "SELECT tells the flags in use", (used, offered))
        self._check_permanent(codes.get("PERMANENTFLAGS", ""), mailbox, is_read_only=is_read_only)
        if "UNSEEN" in codes:
            seen = [SEEN in mailbox.flags(uid, self.reader) for uid in mailbox.messages]
            require(int(codes["UNSEEN"]) == seen.index(False) + 1, "SELECT tells the first unseen", codes)

    def _check_permanent(self, argument: str, mailbox: Mailbox, *, is_read_only: bool) -> None:
        """RFC 4314 §5.1.1: the flags that the reader may change."""
        told = {word for word in argument.strip("()").split() if word in SYSTEM_FLAGS}
        rights = frozenset[str]() if is_read_only else mailbox.rights(self.reader)
        wanted = {flag for flag, right in SYSTEM_FLAGS.items() if right in rights}
        require(told == wanted, "PERMANENTFLAGS are those that the reader may change", (argument, wanted))

    def expect(self, answer: Answer, refusal: str, *, code: str | None = None) -> bool:
        """Hold the end of the answer against the model: OK, or NO with this code; False when BYE came instead."""
        end = answer.end
        if end.status == "BYE":
            require(self.is_orphan, "BYE comes only where the mailbox was removed", end)
            self.world.met["the selected mailbox is removed"] += 1
            return False
        require(end.status == ("NO" if refusal else "OK"), "the command ends as it must", (end, refusal))
        if refusal:
            require(end.code in ("", refusal), "the refusal says why", (end, refusal))
        elif code is not None:
            require(end.code == code, "the answer has its response code", (end, code))
        return True

    def settle(
        self,
        answer: Answer,
        refusal: str,
        told: Told,
        *,
        may_expunge: bool = True,
        by_uid: Collection[int] = (),
        is_asked: bool = False,
    ) -> bool:
        """Compare a whole answer; False when the connection is gone or the mailbox is, and nothing can be compared.

        `by_uid`: what a UID command named.
        """
        if not self.expect(answer, refusal):
            return False
        if self.view is None or self.is_orphan:
            return not self.is_orphan
        # RFC 5465 §6.1.1: who asked for MessageExpunge is told at once
        may_expunge |= self.is_watching
        for line in answer.lines:
            self.hear(line, may_expunge=may_expunge, by_uid=by_uid, is_asked=is_asked)
        if answer.end.code == "HIGHESTMODSEQ":
            self.view.hear_highest(int(answer.end.argument))
        if told is Told.HELD:
            told = Told.SOME if self.view.removed() else Told.ALL
        if told is Told.ALL and not refusal:
            self.must_know_all()
        return True

    def must_know_all(self) -> None:
        """A sync point."""
        assert self.view is not None
        require(not (gap := self.view.untold()), "everything is told at a sync point", gap)
        self.view.version = self.view.mailbox.version

    def uid_named(self, line: Fetched) -> int:
        """The message that a FETCH or UIDFETCH is about."""
        view = self.view
        assert view is not None
        require((line.seq == 0) is self.is_uid_only, "UIDONLY alone is told UIDFETCH", line)
        if line.seq:
            return view.uid_of(line.seq)
        require(line.uid in view.flags, "a response names a message of the view", (line, view.uids))
        return line.uid or 0

    def hear(
        self,
        line: Response,
        *,
        may_expunge: bool,
        by_uid: Collection[int] = (),
        is_late: bool = False,
        is_asked: bool = False,
    ) -> None:
        """One untagged response; `is_asked`: FETCH may be the answer to a command that did not name MODSEQ."""
        view = self.view
        assert view is not None
        if isinstance(line, Vanished):
            require(may_expunge and self.tells_vanished, "EXPUNGE comes where it is allowed", line)
            require(not line.is_earlier, "VANISHED (EARLIER) is told to who asks", line)
            view.hear_vanished(line.uids)
        elif isinstance(line, Numbered):
            self._hear_numbered(line, view, may_expunge=may_expunge)
        elif isinstance(line, Fetched):
            self._hear_fetched(line, view, by_uid=by_uid, is_late=is_late, is_asked=is_asked)
        elif isinstance(line, Offered):
            view.offered = line.flags
        elif isinstance(line, Condition):
            require(line.status in ("OK", "NO"), "BYE comes only where the mailbox was removed", line)
            if line.code == "HIGHESTMODSEQ":
                view.hear_highest(int(line.argument))
            elif line.code == "PERMANENTFLAGS" and not is_late:
                self._check_permanent(line.argument, view.mailbox, is_read_only=view.is_read_only)

    def _hear_numbered(self, line: Numbered, view: View, *, may_expunge: bool) -> None:
        if line.kind == "EXPUNGE":
            # RFC 3501 §7.4.1: not while FETCH, STORE or SEARCH go by number, nor while no command is in progress
            require(may_expunge and not self.tells_vanished, "EXPUNGE comes where it is allowed", line)
            view.hear_expunge(line.number)
        elif line.kind == "EXISTS":
            view.hear_exists(line.number)
        else:
            require(not self.is_rev2, "rev2 has no RECENT", line)
            require(line.number <= len(view.uids), "RECENT is no more than EXISTS", (line, len(view.uids)))

    def _hear_fetched(
        self, line: Fetched, view: View, *, by_uid: Collection[int], is_late: bool, is_asked: bool
    ) -> None:
        uid = self.uid_named(line)
        require(line.uid in (None, uid), "sequence numbers and uids agree", (line, uid))
        require(not (line.is_recent and self.is_rev2), "rev2 has no RECENT", line)
        # RFC 3501 §6.4.8: FETCH responses that a UID command causes have the UID
        require(line.uid is not None or uid not in by_uid, "UID commands are answered with UID", line)
        if line.flags is not None:
            require(line.flags <= view.offered, "FLAGS tells every flag before it is used", (line, view.offered))
            # RFC 7162 §3.1: whoever knows mod-sequences is told them with every change of flags
            is_complete = line.mod_seq is not None or not self.is_aware or is_asked
            require(is_complete, "changes of flags are told with MODSEQ", line)
            view.hear_flags(uid, line.flags, is_late=is_late)
        if line.mod_seq is not None:
            require(self.is_aware, "MODSEQ is told to who asked for it", line)
            view.hear_mod_seq(uid, line.mod_seq, is_late=is_late)

    async def renew(self) -> None:
        """Sign in again when the server has closed, with INBOX selected."""
        if self.connection.is_lost:
            self.connection.close()
            self.renewals += 1
            self.leave()
            await self.connect()
            await self.select("INBOX", fetches=True, is_read_only=False)

    async def come_back(self, modes: Iterable[str], resume: int) -> None:
        """Lose the connection, keep what is known, and return in these modes to the mailbox that was selected."""
        name = self._selected_name if self.view is not None else ""
        self.connection.close()
        self.leave()
        self.modes = frozenset(modes)
        await self.connect()
        if name:
            await self.select(name, fetches=not resume, is_read_only=False, resume=resume)

    async def begin_idle(self) -> None:
        """IDLE; what is owed comes at once (`hear_idle` waits for it)."""
        tag = self.connection.begin(b"IDLE")
        while not (line := await self.connection.line()).startswith(b"+ "):
            self._idle_lines.append(told := parse(line))
            # RFC 4314 §5.1.1: other rights are told before
            is_about_rights = isinstance(told, Offered) or getattr(told, "code", "") == "PERMANENTFLAGS"
            require(is_about_rights, "IDLE is granted", line)
            self.hear(told, may_expunge=False)
        self._idle_tag = tag

    async def hear_idle(self) -> None:
        """Wait until the client that idles, or watches, has been told everything."""
        while self._is_news_owed():
            view = self.view
            if not await self.connection.news(IDLE_S):
                is_right = self.connection.is_lost and self.is_orphan
                require(is_right, "an idling client hears of changes", view.untold() if view else "")
                await self.renew()
                return
            line = parse(self.connection.lines.popleft())
            self._idle_lines.append(line)
            if isinstance(line, Condition) and line.status == "BYE":
                require(self.is_orphan, "BYE comes only where the mailbox was removed", line)
            elif isinstance(line, Condition) and line.code == "CLOSED":
                self.world.met["a right is lost while a client waits for news"] += 1
                require(view is not None and view.is_closed, "CLOSED comes where a right was lost", line)
                self.leave()
                self._idle_lines = []
            elif view is not None and not self.is_orphan:
                self.hear(line, may_expunge=True, is_late=True)
        if self.view is not None:
            self.view.version = self.view.mailbox.version

    def _is_news_owed(self) -> bool:
        view = self.view
        if self.connection.lines or view is None:
            return bool(self.connection.lines)
        return self.is_orphan or view.is_closed or (view.is_behind and bool(view.untold()))

    async def end_idle(self) -> None:
        """DONE."""
        tag, self._idle_tag = self._idle_tag, ""
        self.connection.send(b"DONE\r\n")
        answer = await self.connection.end(tag)
        if self.view is not None:
            for line in answer.lines:
                self.hear(line, may_expunge=True, is_late=True)
            self.must_know_all()
        self.expect(answer, "")
        self._note_mod_seqs([*self._idle_lines, *answer.lines, answer.end])
        self._idle_lines = []

    def must_be_silent(self) -> None:
        """Between its commands nothing comes, but to who has asked for that."""
        if self.is_watching:
            return
        require(not self.connection.lines, "nothing is said while no command is in progress", self.connection.lines)
