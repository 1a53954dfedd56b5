"""The trees of all accounts: names as each reader knows them, who may do what with them, and how they change.

Names of refusals are response codes of RFC 5530; "" is success. Each function asks in the order in which a server must,
so that a name nobody may look up says nothing of what is there (RFC 4314 §6).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from model.model import ANYONE, NO_RIGHT, Mailbox, ModSeqs, Rights, require

DELIMITER: Final = "/"
INBOX: Final = "INBOX"
OTHERS: Final = "Other Users"
USES: Final = {
    "Drafts": "\\Drafts",
    "Sent": "\\Sent",
    "Archive": "\\Archive",
    "Junk": "\\Junk",
    "Trash": "\\Trash",
}


class Account:
    """One account: its mailboxes by path. No rights are asked here."""

    def __init__(self, number: int, address: str) -> None:
        self.number = number
        self.address = address
        self.mod_seqs = ModSeqs()
        self.mailboxes: dict[str, Mailbox] = {INBOX: Mailbox(number, self.mod_seqs)}
        self.mailboxes |= {name: Mailbox(number, self.mod_seqs, use) for name, use in USES.items()}
        self.uid_validity_max = 0
        self.messages_max = 0  # the quota; 0: none
        self.lingering: set[int] = set()  # keys of messages in removed mailboxes, which count until these are swept

    def held(self) -> set[int]:
        """The keys of all messages."""
        return {one.key for mailbox in self.mailboxes.values() for one in mailbox.messages.values()}

    def is_over(self, more: int) -> bool | None:
        """Whether there is no room for so many more messages; None where the sweeper decides."""
        if not self.messages_max:
            return False
        held = self.held()
        if len(held) + more > self.messages_max:
            return True
        return None if len(held | self.lingering) + more > self.messages_max else False

    def learn_used(self, number: int) -> None:
        """The server says how many messages count in the quota."""
        held = self.held()
        least, most = len(held), len(held | self.lingering)
        require(least <= number <= most, "the quota counts each message once", (number, least, most))
        if number == least:
            self.lingering &= held  # the others were swept

    def has_children(self, path: str) -> bool:
        """Whether there are names below."""
        return any(name.startswith(path + DELIMITER) for name in self.mailboxes)

    def create(self, path: str) -> str:
        """CREATE, with the levels above; a name without messages becomes a mailbox."""
        there = self.mailboxes.get(path)
        if there is not None and not there.is_noselect:
            return "ALREADYEXISTS"
        self._make_levels(path)
        self.mailboxes[path].is_noselect = False
        return ""

    def _make_levels(self, path: str) -> None:
        levels = path.split(DELIMITER)
        above: Mailbox | None = None
        for depth in range(1, len(levels) + 1):
            name = DELIMITER.join(levels[:depth])
            made = self.mailboxes.get(name)
            if made is None:
                # made again, a mailbox that the account began with is for what it was for
                taken = {mailbox.use for mailbox in self.mailboxes.values()}
                use = USES.get(name, "")
                made = Mailbox(self.number, self.mod_seqs, "" if use in taken else use, above=self.uid_validity_max)
                if above is not None:
                    made.granted, made.denied = dict(above.granted), dict(above.denied)
                self.mailboxes[name] = made
            above = made

    def delete(self, path: str) -> str:
        """DELETE; the name stays where others stand below it (RFC 9051 §6.3.5)."""
        if path == INBOX:
            return "CANNOT"
        mailbox, has_children = self.mailboxes[path], self.has_children(path)
        if mailbox.is_noselect and has_children:
            return "HASCHILDREN"
        mailbox.is_removed = True
        self.lingering |= {one.key for one in mailbox.messages.values()}
        del self.mailboxes[path]
        if has_children:
            name = Mailbox(self.number, self.mod_seqs, above=self.uid_validity_max)
            name.is_noselect = True
            name.granted, name.denied = dict(mailbox.granted), dict(mailbox.denied)
            self.mailboxes[path] = name
        return ""

    def rename(self, old: str, new: str) -> str:
        """RENAME of a mailbox and all below it; INBOX is moved otherwise."""
        if old == INBOX:
            return "CANNOT"
        if new in self.mailboxes:
            return "ALREADYEXISTS"
        if new.startswith(old + DELIMITER):
            return "CANNOT"
        moved = [path for path in self.mailboxes if path == old or path.startswith(old + DELIMITER)]
        held = [self.mailboxes[path] for path in moved]
        # roles stay taken while levels are made
        if DELIMITER in new:
            self._make_levels(new.rpartition(DELIMITER)[0])
        for path in moved:
            del self.mailboxes[path]
        self.mailboxes |= {new + path[len(old) :]: one for path, one in zip(moved, held, strict=True)}
        return ""

    def learn_uid_validity(self, mailbox: Mailbox, number: int) -> None:
        """As `Mailbox.learn_uid_validity`, for mailboxes whose numbers are asked for as soon as they are made."""
        mailbox.learn_uid_validity(number)
        self.uid_validity_max = max(number, self.uid_validity_max)


class World:
    """The accounts, and what each may do with the others' mailboxes."""

    def __init__(self, addresses: list[str], administrator: int | None) -> None:
        self.administrator = administrator
        self.accounts = [Account(number, address) for number, address in enumerate(addresses)]
        self.message_count = 0
        self.met: Counter[str] = Counter()  # what seldom happens, for who asks whether it did

    def next_number(self) -> int:
        """The number of a message that comes in."""
        self.message_count += 1
        return self.message_count

    def name(self, reader: int, account: Account, path: str) -> str:
        """What the reader calls the mailbox."""
        return path if account.number == reader else f"{OTHERS}/{account.address}/{path}"

    def locate(self, reader: int, name: str) -> tuple[Account, str]:
        """The account that the name leads to, and the path there."""
        for account in self.accounts:
            prefix = f"{OTHERS}/{account.address}/"
            if name.startswith(prefix):
                return account, name[len(prefix) :]
        return self.accounts[reader], name

    def everything(self) -> Iterator[tuple[Account, str, Mailbox]]:
        """All mailboxes, by account and path."""
        for account in self.accounts:
            for path in sorted(account.mailboxes):
                yield account, path, account.mailboxes[path]

    def open(self, reader: int, name: str, right: str, *, is_selectable: bool = True) -> tuple[str, Mailbox | None]:
        """(refusal, mailbox) of one that the reader may do something with."""
        account, path = self.locate(reader, name)
        mailbox = account.mailboxes.get(path)
        if mailbox is None:
            return "NONEXISTENT", None
        rights = mailbox.rights(reader)
        if right not in rights:
            return "NOPERM" if "l" in rights else "NONEXISTENT", None
        if is_selectable and mailbox.is_noselect:
            return "NONEXISTENT", None
        return "", mailbox

    def create(self, reader: int, name: str) -> str:
        """CREATE"""
        account, path = self.locate(reader, name)
        return self.refuse_making(reader, account, path) or account.create(path)

    def refuse_making(self, reader: int, account: Account, path: str) -> str:
        """Why the reader may make no mailbox there: the nearest name above says it."""
        if account.number == reader:
            return ""
        while DELIMITER in path:
            path = path.rpartition(DELIMITER)[0]
            if path in account.mailboxes:
                rights = account.mailboxes[path].rights(reader)
                return "" if "k" in rights else "NOPERM" if "l" in rights else "NONEXISTENT"
        return "NONEXISTENT"

    def delete(self, reader: int, name: str) -> str:
        """DELETE"""
        refusal, _ = self.open(reader, name, "x", is_selectable=False)
        account, path = self.locate(reader, name)
        return refusal or account.delete(path)

    def rename(self, reader: int, old: str, new: str) -> str:
        """RENAME"""
        refusal, _ = self.open(reader, old, "x", is_selectable=False)
        account, path = self.locate(reader, old)
        other, new_path = self.locate(reader, new)
        if refusal:
            return refusal
        if refusal := self.refuse_making(reader, other, new_path):
            return refusal
        return account.rename(path, new_path) if account is other else "CANNOT"

    def change_rights(self, reader: int, name: str, whom: int, mode: str, letters: Rights, *, is_denied: bool) -> str:
        """SETACL; mode "", "+" or "-"."""
        refusal, mailbox = self.open(reader, name, "a", is_selectable=False)
        if mailbox is None:
            return refusal
        if whom == ANYONE and "l" in letters and mode != "-" and not is_denied and reader != self.administrator:
            return "NOPERM"
        if whom == mailbox.owner:
            return "CANNOT" if is_denied or mode == "-" or (mode == "" and len(letters) < 11) else ""
        entries = mailbox.denied if is_denied else mailbox.granted
        old = entries.get(whom, NO_RIGHT)
        new = letters if mode == "" else old | letters if mode == "+" else old - letters
        entries.pop(whom, None)
        if new:
            entries[whom] = new
        return ""

    def listed(self, reader: int) -> dict[str, frozenset[str]]:
        """What LIST tells the reader: attributes by name."""
        found: dict[str, frozenset[str]] = {}
        visible = [
            (self.name(reader, account, path), mailbox)
            for account, path, mailbox in self.everything()
            if "l" in mailbox.rights(reader)
        ]
        names = [name for name, _ in visible]
        for name, mailbox in visible:
            has_children = any(one.startswith(name + DELIMITER) for one in names)
            attributes = {"\\HasChildren" if has_children else "\\HasNoChildren"}
            if mailbox.is_noselect or "r" not in mailbox.rights(reader):
                attributes.add("\\Noselect")
            if mailbox.owner == reader and mailbox.use:
                attributes.add(mailbox.use)
            found[name] = frozenset(attributes)
        for name, mailbox in visible:
            while mailbox.owner != reader and DELIMITER in name:
                name = name.rpartition(DELIMITER)[0]
                found.setdefault(name, frozenset({"\\NonExistent", "\\Noselect", "\\HasChildren"}))
        return found


__all__ = ["ANYONE", "DELIMITER", "INBOX", "OTHERS", "Account", "World"]
