"""The account as it must be, in plain Python, and what one session has been told of it.

Knows the rules (RFC 3501, 4315, 6851) and no server: `Account` changes by whole commands, `View` hears responses and
says when one of them is a lie. Two bounds lie on a view. What it *must* hold: at a sync point exactly the mailbox. What
it *may* hold: messages removed since, while no command allowed EXPUNGE; flags of before, until the next sync point.

Mod-sequences (RFC 7162) are the server's to choose: the model keeps bounds for each message, which every value that is
told makes narrower (`Bounds`). A change comes after all that was told before it, whatever mailbox that was about.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

NO_BOUND: Final = 1 << 63
DELIMITER: Final = "/"
INBOX: Final = "INBOX"
USES: Final = {
    "Drafts": "\\Drafts",
    "Sent": "\\Sent",
    "Archive": "\\Archive",
    "Junk": "\\Junk",
    "Trash": "\\Trash",
}

Flags = frozenset[str]


class Difference(AssertionError):
    """The server and the model disagree; `rule` names what was broken."""

    def __init__(self, rule: str, detail: object = "") -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule


def require(holds: bool, rule: str, detail: object = "") -> None:
    """Raise `Difference` unless it `holds`."""
    if not holds:
        raise Difference(rule, detail)


class Message(NamedTuple):
    """A message in a mailbox; `number` stands in its subject and goes along with COPY and MOVE."""

    number: int
    flags: Flags


class Bounds(NamedTuple):
    """low < mod_seq <= high of one message; equal to `high` where it was told (`low` is one less)."""

    low: int
    high: int


class ModSeqs:
    """What an account has told of its mod-sequences: `told` is the highest."""

    def __init__(self) -> None:
        self.told = 0


class Mailbox:
    """A mailbox; `version` rises with every change of its messages."""

    def __init__(self, mod_seqs: ModSeqs, use: str = "", *, above: int = 0) -> None:
        self.use = use
        self.mod_seqs = mod_seqs
        self.bounds: dict[int, Bounds] = {}
        self.highest = 0  # the last HIGHESTMODSEQ of STATUS
        self.highest_version = -1  # of the mailbox when it was told
        self.removed_by: dict[int, int] = {}  # uid: a HIGHESTMODSEQ that its removal does not exceed
        self._removed: list[int] = []  # since then
        self.uid_validity = 0  # 0: the server has not said it yet
        self.above = above  # the highest UIDVALIDITY of the account when the mailbox was made
        self.uid_next = 1
        self.messages: dict[int, Message] = {}
        self.history: dict[int, set[Flags]] = {}  # every set of flags a uid has had
        self.version = 0
        self.is_removed = False

    def add(self, number: int, flags: Flags) -> int:
        """A new message; its uid."""
        uid, self.uid_next = self.uid_next, self.uid_next + 1
        self.messages[uid] = Message(number, flags)
        self.history[uid] = {flags}
        self._change(uid)
        return uid

    def set_flags(self, uid: int, flags: Flags) -> None:
        """Give a message that is there these flags."""
        message = self.messages[uid]
        if message.flags != flags:
            self.messages[uid] = Message(message.number, flags)
            self.history[uid].add(flags)
            self._change(uid)

    def _change(self, uid: int) -> None:
        # INV-3: a change has a larger mod_seq than any that a client has seen
        self.bounds[uid] = Bounds(self.mod_seqs.told, NO_BOUND)
        self.version += 1

    def remove(self, uids: Iterable[int]) -> None:
        """Take messages out; those that are gone are passed over."""
        for uid in uids:
            if self.messages.pop(uid, None) is not None:
                self._removed.append(uid)
                del self.bounds[uid]
                self.version += 1

    def learn_mod_seq(self, uid: int, mod_seq: int) -> None:
        """The server says MODSEQ of a message."""
        low, high = self.bounds[uid]
        require(low < mod_seq <= high, "MODSEQ rises with changes and by them alone", (uid, mod_seq, (low, high)))
        self.bounds[uid] = Bounds(mod_seq - 1, mod_seq)
        self.mod_seqs.told = max(mod_seq, self.mod_seqs.told)

    def learn_highest(self, mod_seq: int) -> None:
        """The server says HIGHESTMODSEQ to a session that has not selected the mailbox."""
        if self.version != self.highest_version:
            require(mod_seq > self.highest, "HIGHESTMODSEQ rises with changes", (mod_seq, self.highest))
        require(mod_seq >= self.highest, "HIGHESTMODSEQ never falls", (mod_seq, self.highest))
        for uid in self.messages:
            low, high = self.bounds[uid]
            require(mod_seq > low, "HIGHESTMODSEQ is that of the latest change", (uid, mod_seq, (low, high)))
            if high > mod_seq:
                self.bounds[uid] = Bounds(low, mod_seq)
        self.removed_by |= dict.fromkeys(self._removed, mod_seq)
        self._removed.clear()
        self.highest, self.highest_version = mod_seq, self.version
        self.mod_seqs.told = max(mod_seq, self.mod_seqs.told)

    def is_since(self, uid: int, mod_seq: int) -> bool | None:
        """Whether the mod_seq of the message is larger; None when that is not known."""
        low, high = self.bounds[uid]
        return True if low >= mod_seq else False if high <= mod_seq else None

    def deleted(self) -> list[int]:
        """The uids that EXPUNGE removes."""
        return [uid for uid, message in self.messages.items() if "\\Deleted" in message.flags]

    def unseen(self) -> int:
        """What STATUS tells as UNSEEN."""
        return sum("\\Seen" not in message.flags for message in self.messages.values())

    def learn_uid_validity(self, number: int) -> None:
        """The server says UIDVALIDITY: always the same, and above that of every mailbox that was made before."""
        if not self.uid_validity:
            # RFC 3501 §2.3.1.1: a name made again never repeats one
            require(number > self.above, "UIDVALIDITY of a new mailbox is above the ones before", (number, self.above))
            self.uid_validity = number
        require(number == self.uid_validity, "UIDVALIDITY stays", (number, self.uid_validity))


class Account:
    """The mailboxes by path. Names of refusals are response codes of RFC 5530; "" is success."""

    def __init__(self) -> None:
        self.mod_seqs = ModSeqs()
        self.mailboxes: dict[str, Mailbox] = {INBOX: Mailbox(self.mod_seqs)}
        self.mailboxes |= {name: Mailbox(self.mod_seqs, use) for name, use in USES.items()}
        self.uid_validity_max = 0
        self.message_count = 0

    def next_number(self) -> int:
        """The number of a message that comes in."""
        self.message_count += 1
        return self.message_count

    def has_children(self, path: str) -> bool:
        """Whether there are names below."""
        return any(name.startswith(path + DELIMITER) for name in self.mailboxes)

    def create(self, path: str) -> str:
        """CREATE, with the levels above."""
        if path in self.mailboxes:
            return "ALREADYEXISTS"
        levels = path.split(DELIMITER)
        # made again, a mailbox that the account began with is for what it was for
        taken = {mailbox.use for mailbox in self.mailboxes.values()}
        for depth in range(1, len(levels) + 1):
            name = DELIMITER.join(levels[:depth])
            use = USES.get(name, "")
            made = Mailbox(self.mod_seqs, "" if use in taken else use, above=self.uid_validity_max)
            self.mailboxes.setdefault(name, made)
        return ""

    def delete(self, path: str) -> str:
        """DELETE"""
        if path not in self.mailboxes:
            return "NONEXISTENT"
        if path == INBOX:
            return "CANNOT"
        if self.has_children(path):
            return "HASCHILDREN"
        self.mailboxes.pop(path).is_removed = True
        return ""

    def rename(self, old: str, new: str) -> str:
        """RENAME of a mailbox and all below it; INBOX is left to the tests of the command."""
        if old not in self.mailboxes:
            return "NONEXISTENT"
        if new in self.mailboxes:
            return "ALREADYEXISTS"
        if new.startswith(old + DELIMITER):
            return "CANNOT"
        moved = [path for path in self.mailboxes if path == old or path.startswith(old + DELIMITER)]
        taken = {new + path[len(old) :]: self.mailboxes.pop(path) for path in moved}
        if DELIMITER in new and (above := new.rpartition(DELIMITER)[0]) not in self.mailboxes:
            self.create(above)
        self.mailboxes |= taken
        return ""

    def learn_uid_validity(self, mailbox: Mailbox, number: int) -> None:
        """As `Mailbox.learn_uid_validity`, for mailboxes whose numbers are asked for as soon as they are made."""
        mailbox.learn_uid_validity(number)
        self.uid_validity_max = max(number, self.uid_validity_max)


class View:
    """What the client of one session holds of its selected mailbox."""

    def __init__(self, mailbox: Mailbox, *, is_read_only: bool) -> None:
        self.mailbox = mailbox
        self.is_read_only = is_read_only
        self.uids = list(mailbox.messages)
        self.flags: dict[int, Flags | None] = dict.fromkeys(self.uids)  # None: the client was never told
        # A silent STORE changed what the client had heard no news of: it takes flags for true that nobody ever saw, and
        # is told them again if the message goes
        self.dreamt: set[int] = set()
        self.uid_next = mailbox.uid_next
        self.version = mailbox.version

    @property
    def is_behind(self) -> bool:
        """Whether the mailbox has changed since the last moment at which everything was told."""
        return self.version != self.mailbox.version

    def removed(self) -> list[int]:
        """The uids that are gone and whose EXPUNGE the client has not heard."""
        return [uid for uid in self.uids if uid not in self.mailbox.messages]

    def untold(self) -> str:
        """What is missing for a client that must know everything; "" when nothing is."""
        if self.uids != list(self.mailbox.messages):
            return f"holds {self.uids}, there are {list(self.mailbox.messages)}"
        for uid, message in self.mailbox.messages.items():
            known = self.flags[uid]
            if known is not None and known != message.flags:
                return f"uid {uid} has {sorted(message.flags)}, the client believes {sorted(known)}"
        return ""

    def hear_expunge(self, seq: int) -> None:
        """`* n EXPUNGE`: it must be one that is gone."""
        require(1 <= seq <= len(self.uids), "EXPUNGE names a message of the view", (seq, len(self.uids)))
        uid = self.uids.pop(seq - 1)
        del self.flags[uid]
        require(uid not in self.mailbox.messages, "EXPUNGE names a removed message", (seq, uid))

    def hear_exists(self, count: int) -> None:
        """`* n EXISTS`: the messages that came since, all of them."""
        added = [uid for uid in self.mailbox.messages if uid >= self.uid_next]
        # RFC 3501 §7.3.1, §5.2: the size never falls but by EXPUNGE
        require(count == len(self.uids) + len(added), "EXISTS counts the messages", (count, self.uids, added))
        self.uids += added
        self.flags |= dict.fromkeys(added)
        self.uid_next = self.mailbox.uid_next

    def uid_of(self, seq: int) -> int:
        """The uid that the client takes for message `seq`."""
        require(1 <= seq <= len(self.uids), "a response names a message of the view", (seq, len(self.uids)))
        return self.uids[seq - 1]

    def hear_flags(self, seq: int, flags: Flags, *, is_late: bool = False) -> None:
        """FLAGS of a FETCH: the present ones; of a removed message (or `is_late`: IDLE) any that it has had."""
        uid = self.uid_of(seq)
        message = self.mailbox.messages.get(uid)
        if message is None or is_late:
            is_dream = message is None and uid in self.dreamt
            require(is_dream or flags in self.mailbox.history[uid], "flags told were once true", (uid, flags))
        else:
            require(flags == message.flags, "flags told are true", (uid, flags, message.flags))
            self.dreamt.discard(uid)
        self.flags[uid] = flags

    def believe(self, uids: Iterable[int], mode: str, flags: Flags) -> None:
        """A silent STORE: the client works out the flags by itself."""
        for uid in uids:
            known = self.flags[uid]
            if mode == "":
                self.flags[uid] = flags
            elif known is not None:
                self.flags[uid] = combined(known, mode, flags)
            message = self.mailbox.messages.get(uid)
            if message is None or message.flags != self.flags[uid]:
                self.dreamt.add(uid)

    def hear_mod_seq(self, seq: int, mod_seq: int, *, is_late: bool = False) -> None:
        """MODSEQ of a FETCH; `is_late`: it may be from before the last change."""
        uid = self.uid_of(seq)
        if uid in self.mailbox.messages and not (is_late and mod_seq <= self.mailbox.bounds[uid].low):
            self.mailbox.learn_mod_seq(uid, mod_seq)

    def hear_highest(self, mod_seq: int) -> None:
        """HIGHESTMODSEQ: it reaches no removal that was not told (INV-8), and no message that is not there."""
        for uid in self.removed():
            by = self.mailbox.removed_by.get(uid, NO_BOUND)
            require(mod_seq < by, "HIGHESTMODSEQ reaches no untold removal", (uid, mod_seq, by))
        self.mailbox.mod_seqs.told = max(mod_seq, self.mailbox.mod_seqs.told)


def combined(old: Flags, mode: str, flags: Flags) -> Flags:
    """What STORE makes of `old`; mode "", "+" or "-" (RFC 3501 §6.4.6)."""
    return flags if mode == "" else old | flags if mode == "+" else old - flags


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as a sequence set: `1:3,7`."""
    parts: list[str] = []
    for number in numbers:
        if parts and int(parts[-1].rpartition(":")[2]) == number - 1:
            parts[-1] = f"{parts[-1].partition(':')[0]}:{number}"
        else:
            parts.append(str(number))
    return ",".join(parts)


def expanded(text: str) -> list[int]:
    """The numbers of a sequence set as `ranges` writes it, in its order."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition(":")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
