"""One session of the walk: its connection, what it was told, and the comparison of each answer with the model."""

from collections.abc import Collection
from enum import Enum, auto

from model.client import Answer, Condition, Connection, Fetched, Numbered, Offered, Response, parse
from model.model import Account, Mailbox, View, require
from model.workers import PASSWORD

IDLE_S = 8.0  # a hint takes milliseconds; the poll for lost ones a second


class Told(Enum):
    """What a client knows after a command."""

    ALL = auto()  # a sync point: exactly the mailbox
    HELD = auto()  # the same, unless a removal is held back (INV-8)
    SOME = auto()  # nothing is owed


class Session:
    """A client at one worker. Commands about messages select INBOX first where nothing is selected."""

    def __init__(self, address: tuple[str, int], user: str, account: Account, *, is_aware: bool) -> None:
        self.account = account
        self.is_aware = is_aware  # of mod-sequences (RFC 7162 §3.1)
        self.view: View | None = None
        self.connection = Connection()
        self.renewals = 0  # connections lost by BYE
        self._address = address
        self._user = user
        self._idle_tag = ""

    async def connect(self) -> None:
        """Sign in on a new connection."""
        self.connection = await Connection.open(self._address)
        self.view = None
        self._idle_tag = ""
        await self.connection.ok(b"LOGIN %b %b" % (self._user.encode(), PASSWORD.encode()))
        if self.is_aware:
            await self.connection.ok(b"ENABLE CONDSTORE")

    @property
    def is_idle(self) -> bool:
        """Whether IDLE is under way."""
        return bool(self._idle_tag)

    @property
    def is_orphan(self) -> bool:
        """Whether the selected mailbox was removed: any command may end in BYE."""
        return self.view is not None and self.view.mailbox.is_removed

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

    async def select(self, path: str, *, fetches: bool, is_read_only: bool) -> None:
        """SELECT or EXAMINE, with the answer compared."""
        mailbox = self.account.mailboxes.get(path)
        word = b"EXAMINE" if is_read_only else b"SELECT"
        answer = await self.connection.command(b'%b "%b"' % (word, path.encode()))
        self.view = None  # RFC 3501 §6.3.1: a failed SELECT leaves none selected
        if mailbox is None:
            self.expect(answer, "NONEXISTENT")
            return
        self.expect(answer, "", code="READ-ONLY" if is_read_only else "READ-WRITE")
        self._check_selection(answer.lines, mailbox)
        self.view = View(mailbox, is_read_only=is_read_only)
        if fetches and self.view.uids:
            answer = await self.connection.command(b"FETCH 1:* (UID FLAGS)")
            self.settle(answer, "", Told.ALL, is_asked=True)
            require(None not in self.view.flags.values(), "FETCH answers for every message", answer.lines)

    def _check_selection(self, lines: list[Response], mailbox: Mailbox) -> None:
        numbers = {line.kind: line.number for line in lines if isinstance(line, Numbered)}
        require(numbers.get("EXISTS") == len(mailbox.messages), "SELECT tells EXISTS", (numbers, mailbox.messages))
        require(0 <= numbers.get("RECENT", -1) <= len(mailbox.messages), "SELECT tells RECENT", numbers)
        codes = {line.code: line.argument for line in lines if isinstance(line, Condition)}
        require(codes.get("UIDNEXT") == str(mailbox.uid_next), "SELECT tells UIDNEXT", (codes, mailbox.uid_next))
        self.account.learn_uid_validity(mailbox, int(codes.get("UIDVALIDITY", "0")))
        # RFC 7162 §3.1.2.1; asked for after every step, so no newer one can be there
        highest = int(codes.get("HIGHESTMODSEQ", "0")) or None
        require(
            highest in ({mailbox.highest} if self.is_aware else {mailbox.highest, None}),
            "SELECT tells HIGHESTMODSEQ",
            (codes, mailbox.highest),
        )
        (offered,) = (line.flags for line in lines if isinstance(line, Offered))
        used = {flag for message in mailbox.messages.values() for flag in message.flags}
        require(used <= offered, "SELECT tells the flags in use", (used, offered))
        if "UNSEEN" in codes:
            seen = ["\\Seen" in message.flags for message in mailbox.messages.values()]
            require(int(codes["UNSEEN"]) == seen.index(False) + 1, "SELECT tells the first unseen", codes)

    def expect(self, answer: Answer, refusal: str, *, code: str | None = None) -> bool:
        """Hold the end of the answer against the model: OK, or NO with this code; False when BYE came instead."""
        end = answer.end
        if end.status == "BYE":
            require(self.is_orphan, "BYE comes only where the mailbox was removed", end)
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
        if isinstance(line, Numbered):
            if line.kind == "EXPUNGE":
                # RFC 3501 §7.4.1: not while FETCH, STORE or SEARCH go by number, nor while no command is in progress
                require(may_expunge, "EXPUNGE comes where it is allowed", line)
                view.hear_expunge(line.number)
            elif line.kind == "EXISTS":
                view.hear_exists(line.number)
            else:
                require(line.number <= len(view.uids), "RECENT is no more than EXISTS", (line, len(view.uids)))
        elif isinstance(line, Fetched):
            uid = view.uid_of(line.seq)
            require(line.uid in (None, uid), "sequence numbers and uids agree", (line, uid))
            # RFC 3501 §6.4.8: FETCH responses that a UID command causes have the UID
            require(line.uid is not None or uid not in by_uid, "UID commands are answered with UID", line)
            if line.flags is not None:
                # RFC 7162 §3.1: whoever knows mod-sequences is told them with every change of flags
                is_complete = line.mod_seq is not None or not self.is_aware or is_asked
                require(is_complete, "changes of flags are told with MODSEQ", line)
                view.hear_flags(line.seq, line.flags, is_late=is_late)
            if line.mod_seq is not None:
                require(self.is_aware, "MODSEQ is told to who asked for it", line)
                view.hear_mod_seq(line.seq, line.mod_seq, is_late=is_late)
        elif isinstance(line, Condition):
            require(line.status in ("OK", "NO"), "BYE comes only where the mailbox was removed", line)
            if line.code == "HIGHESTMODSEQ":
                view.hear_highest(int(line.argument))

    async def renew(self) -> None:
        """Sign in again when the server has closed, with INBOX selected."""
        if self.connection.is_lost:
            self.connection.close()
            self.renewals += 1
            await self.connect()
            await self.select("INBOX", fetches=True, is_read_only=False)

    async def begin_idle(self) -> None:
        """IDLE; what is owed comes at once (`hear_idle` waits for it)."""
        self._idle_tag = self.connection.begin(b"IDLE")
        line = await self.connection.line()
        require(line.startswith(b"+ "), "IDLE is granted", line)

    async def hear_idle(self) -> None:
        """Wait until the idling client has been told everything."""
        view = self.view
        assert view is not None
        while self.connection.lines or self.is_orphan or (view.is_behind and view.untold()):
            if not await self.connection.news(IDLE_S):
                require(self.connection.is_lost and self.is_orphan, "an idling client hears of changes", view.untold())
                await self.renew()
                return
            line = parse(self.connection.lines.popleft())
            if isinstance(line, Condition) and line.status == "BYE":
                require(self.is_orphan, "BYE comes only where the mailbox was removed", line)
            elif not self.is_orphan:
                self.hear(line, may_expunge=True, is_late=True)
        view.version = view.mailbox.version

    async def end_idle(self) -> None:
        """DONE."""
        tag, self._idle_tag = self._idle_tag, ""
        self.connection.send(b"DONE\r\n")
        answer = await self.connection.end(tag)
        for line in answer.lines:
            self.hear(line, may_expunge=True, is_late=True)
        self.expect(answer, "")
        self.must_know_all()

    def must_be_silent(self) -> None:
        """Between its commands nothing comes."""
        require(not self.connection.lines, "nothing is said while no command is in progress", self.connection.lines)
