"""The walk: sessions of several accounts that share mailboxes, and the model of them, compared after every step."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from model import doing_messages, doing_trees, looking
from model import steps as s
from model.checks import message
from model.client import Listed, Quota, Response, Statused
from model.model import Mailbox, require
from model.session import Closed, Session
from model.workers import Workers
from model.world import DELIMITER, OTHERS, Account, World

FIRST_REMOVED: Final = ("Drafts", "Sent", "Junk", "Trash")  # so that the sessions meet more often
FIRST_RIGHTS: Final = "lrswite"  # of everybody to every INBOX
LINES_SHOWN: Final = 12  # of each session, for a failure

LIST_ALL: Final = b'LIST "" *'


def status_of(name: str, more: str = "") -> bytes:
    """STATUS as it is sent."""
    return f'STATUS "{name}" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE{more})'.encode()


class Walk:
    """Sessions of all accounts and the model of them; `step` does one step and compares."""

    def __init__(self, workers: Workers, accounts: Sequence[tuple[str, int]]) -> None:
        self.workers = workers
        self.world = World([address for address, _ in accounts], workers.administrator)
        self.account_ids = [account_id for _, account_id in accounts]
        addresses = workers.addresses
        self.sessions = [
            Session(addresses[n % s.WORKERS], self.world, s.account_of(n), s.MODES[n]) for n in range(s.SESSIONS)
        ]
        # never select: they ask STATUS and LIST; by account, then by worker
        self.observers = [
            [Session(address, self.world, account, ["CONDSTORE"]) for address in addresses[: s.WORKERS]]
            for account in range(s.ACCOUNTS)
        ]
        self.touched: set[Mailbox] = set()
        self.is_tree_touched = True
        self.is_void = False  # the last step had nothing to do

    @property
    def everybody(self) -> list[Session]:
        """The sessions and the observers."""
        return [*self.sessions, *(one for group in self.observers for one in group)]

    async def start(self) -> None:
        """Sign everybody in, and share every INBOX."""
        for session in self.everybody:
            await session.connect()
        for account, (observer, *_) in zip(self.world.accounts, self.observers, strict=True):
            for name in FIRST_REMOVED:
                await observer.connection.ok(b"DELETE %b" % name.encode())
                account.delete(name)
            for other in self.world.accounts:
                if other is not account:
                    await observer.connection.ok(f"SETACL INBOX {other.address} {FIRST_RIGHTS}".encode())
                    name = "INBOX"
                    self.world.change_rights(
                        account.number, name, other.number, "", frozenset(FIRST_RIGHTS), is_denied=False
                    )
        self.touch_all()
        await self.compare(0)

    def close(self) -> None:
        """Drop all connections."""
        for session in self.everybody:
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
        if session.is_watching:
            await session.hear_idle()
        session.must_be_silent()
        try:
            await _DOERS[type(step)](self, session, step)
        except Closed:
            self.is_void = True
        await self.compare(number)

    async def compare(self, number: int) -> None:
        """What is seen from outside: counts of what was touched, the trees, the idling clients."""
        require(not self.workers.bugs, "the server meets no bug", self.workers.bugs)
        for account, path, mailbox in list(self.world.everything()):
            if mailbox in self.touched and not mailbox.is_noselect:
                observer = self.observers[account.number][number % s.WORKERS]
                self.compare_status(await observer.connection.ok(status_of(path, " HIGHESTMODSEQ")), observer, path)
        await self.compare_quotas(number)
        self.touched.clear()
        if self.is_tree_touched:
            for group in self.observers:
                observer = group[number % s.WORKERS]
                self.compare_list(await observer.connection.ok(LIST_ALL), observer)
            self.is_tree_touched = False
        for session in self.sessions:
            if session.is_idle or session.is_watching:
                await session.hear_idle()
            else:
                session.must_be_silent()
                await session.renew()  # after STATUS, which says what SELECT must say

    def compare_status(self, lines: Sequence[Response], session: Session, name: str) -> None:
        """STATUS tells the model's counters, to the reader that the session is."""
        account, path = self.world.locate(session.reader, name)
        mailbox = account.mailboxes[path]
        (line,) = (one for one in lines if isinstance(one, Statused))
        values = dict(line.values)
        account.learn_uid_validity(mailbox, values.pop("UIDVALIDITY"))
        if "HIGHESTMODSEQ" in values:
            mailbox.learn_highest(values.pop("HIGHESTMODSEQ"))
        wanted = {
            "MESSAGES": len(mailbox.messages),
            "UIDNEXT": mailbox.uid_next,
            "UNSEEN": mailbox.unseen(session.reader),
            "DELETED": len(mailbox.deleted()),
            "SIZE": sum(len(message(one.number)) for one in mailbox.messages.values()),
        }
        require((line.path, values) == (name, wanted), "STATUS counts", (line, wanted))

    async def compare_quotas(self, number: int) -> None:
        """What counts in the quota, where there is one."""
        for account in self.world.accounts:
            if account.messages_max and any(one.owner == account.number for one in self.touched):
                observer = self.observers[account.number][number % s.WORKERS]
                lines = await observer.connection.ok(b"GETQUOTAROOT INBOX")
                used, limit = next(one.limits["MESSAGE"] for one in lines if isinstance(one, Quota) and one.limits)
                require(limit == account.messages_max, "the quota is as it was set", lines)
                account.learn_used(used)

    def compare_list(self, lines: Sequence[Response], session: Session) -> None:
        """LIST tells the trees as far as the session may see them."""
        listed = [one for one in lines if isinstance(one, Listed)]
        found = {one.path: one.attributes for one in listed}
        require(len(found) == len(listed), "LIST tells each name once", listed)
        # accounts of walks before this one may have shared something with anyone
        found = {name: attributes for name, attributes in found.items() if not self._is_of_strangers(name)}
        wanted = self.world.listed(session.reader)
        found = {name: one for name, one in found.items() if name != OTHERS or OTHERS in wanted}
        require(found == wanted, "LIST tells the mailboxes", (found, wanted))

    def _is_of_strangers(self, name: str) -> bool:
        top, _, rest = name.partition(DELIMITER)
        address = rest.partition(DELIMITER)[0]
        return top == OTHERS and bool(rest) and all(address != one.address for one in self.world.accounts)

    def place(self, session: Session, place: s.Place) -> str:
        """The name, as the session knows it, that a step means."""
        reader = session.reader
        if isinstance(place, str):
            return self._name(reader, place)
        mine = sorted(self.world.accounts[reader].mailboxes)
        if place >= 0:
            return mine[place % len(mine)]
        others = [(account, path) for account, path, _ in self.world.everything() if account.number != reader]
        account, path = others[-place % len(others)]
        return self.world.name(reader, account, path)

    def _name(self, reader: int, text: str) -> str:
        if not text.startswith("~"):
            return text
        account = self.account_after(reader, int(text[1]))
        return self.world.name(reader, account, text[3:])

    def account_after(self, reader: int, further: int) -> Account:
        """The account so many further on."""
        return self.world.accounts[(reader + further) % s.ACCOUNTS]

    def touch(self, mailbox: Mailbox) -> None:
        """Have the mailbox compared after the step, if it still stands somewhere."""
        self.touched.add(mailbox)

    def touch_all(self) -> None:
        """The trees, or rights, have changed."""
        self.is_tree_touched = True
        self.touched.update(mailbox for _, _, mailbox in self.world.everything())


# Any: each function takes the kind of step that is its key
_DOERS: Final[dict[type[s.Step], Callable[[Walk, Session, Any], Awaitable[None]]]] = {
    s.Select: looking.select,
    s.Unselect: looking.unselect,
    s.Reconnect: looking.reconnect,
    s.Close: doing_messages.close_mailbox,
    s.Store: doing_messages.store,
    s.Fetch: looking.fetch,
    s.Search: looking.search,
    s.Expunge: doing_messages.expunge,
    s.UidExpunge: doing_messages.uid_expunge,
    s.Copy: doing_messages.copy,
    s.Move: doing_messages.move,
    s.Append: doing_messages.append,
    s.Deliver: doing_messages.deliver,
    s.Create: doing_trees.create,
    s.Delete: doing_trees.delete,
    s.Rename: doing_trees.rename,
    s.SetAcl: doing_trees.set_acl,
    s.SetQuota: doing_trees.set_quota,
    s.Idle: looking.idle,
    s.Noop: looking.noop,
    s.Status: looking.status,
    s.ListAll: looking.list_all,
}
