"""The accounts as they must be, in plain Python, and what one session has been told of a mailbox.

Knows the rules (RFC 3501, 4314, 4315, 6851, 7162) and no server: `World` changes by whole commands, `View` hears
responses and says when one of them is a lie. Two bounds lie on a view. What it *must* hold: at a sync point exactly the
mailbox. What it *may* hold: messages removed since, while no command allowed EXPUNGE; flags of before, until the next
sync point.

Accounts are numbered from 0. Whoever reads a mailbox has a \\Seen of their own in it, its owner too; all other flags
are everybody's. A `Cache` is what a client keeps of a mailbox that it leaves.

Mod-sequences (RFC 7162) are the server's to choose: the model keeps bounds for each message, which every value that is
told makes narrower (`Bounds`). A change comes after all that was told before it, whatever mailbox that was about.
"""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final, NamedTuple

NO_BOUND: Final = 1 << 63
SEEN: Final = "\\Seen"
EVERY_RIGHT: Final = frozenset("lrswipkxtea")
ANYONE: Final = -1  # in place of an account, in lists of rights
_KEYS: Final = count(1)  # of messages

Flags = frozenset[str]
Rights = frozenset[str]
NO_RIGHT: Final[Rights] = frozenset()


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
    """A message in a mailbox; `number` stands in its subject and goes along with COPY and MOVE.

    `flags` are those that everybody sees; `seen` are the accounts that have \\Seen. Copies in one account have one
    `key`: the quota counts them once.
    """

    number: int
    key: int
    flags: Flags
    seen: frozenset[int]

    def shown(self, reader: int) -> Flags:
        """The flags as a reader has them."""
        return self.flags | {SEEN} if reader in self.seen else self.flags


class Bounds(NamedTuple):
    """low < mod_seq <= high of one message; equal to `high` where it was told (`low` is one less)."""

    low: int
    high: int


class ModSeqs:
    """What an account has told of its mod-sequences: `told` is the highest."""

    def __init__(self) -> None:
        self.told = 0


class Mailbox:
    """A mailbox of the account `owner`; `version` rises with every change of its messages."""

    def __init__(self, owner: int, mod_seqs: ModSeqs, use: str = "", *, above: int = 0) -> None:
        self.owner = owner
        self.use = use
        self.is_noselect = False
        self.granted: dict[int, Rights] = {}
        self.denied: dict[int, Rights] = {}
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
        self.history: dict[int, set[Message]] = {}  # all that a uid has been
        self.version = 0
        self.is_removed = False

    def rights(self, reader: int) -> Rights:
        """What the reader may do (RFC 4314 §2)."""
        if reader == self.owner:
            return EVERY_RIGHT
        if self.is_removed:
            return NO_RIGHT
        granted = self.granted.get(reader, NO_RIGHT) | self.granted.get(ANYONE, NO_RIGHT)
        return granted - self.denied.get(reader, NO_RIGHT) - self.denied.get(ANYONE, NO_RIGHT)

    def flags(self, uid: int, reader: int) -> Flags:
        """The flags of a message that is there, as the reader has them."""
        return self.messages[uid].shown(reader)

    def past_flags(self, uid: int, reader: int) -> set[Flags]:
        """Every set of flags that the reader could have seen."""
        return {one.shown(reader) for one in self.history[uid]}

    def add(self, number: int, flags: Flags, reader: int, *, key: int = 0) -> int:
        """A new message, with flags as the reader has them; its uid. `key`: where it is a copy of another."""
        uid, self.uid_next = self.uid_next, self.uid_next + 1
        self.messages[uid] = _message(number, key or next(_KEYS), flags, frozenset(), reader)
        self.history[uid] = {self.messages[uid]}
        self._change(uid)
        return uid

    def add_moved(self, message: Message, flags: Flags, mover: int) -> None:
        """A message out of another mailbox of the account: to its other readers it is the one that they know."""
        uid = self.add(message.number, flags, mover, key=message.key)
        self.messages[uid] = self.messages[uid]._replace(seen=self.messages[uid].seen | message.seen - {mover})
        self.history[uid] = {self.messages[uid]}

    def set_flags(self, uid: int, flags: Flags, reader: int) -> None:
        """Give a message that is there these flags, as the reader has them."""
        message = self.messages[uid]
        if message.shown(reader) != flags:
            self.messages[uid] = _message(message.number, message.key, flags, message.seen, reader)
            self.history[uid].add(self.messages[uid])
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

    def unseen(self, reader: int) -> int:
        """What STATUS tells the reader as UNSEEN."""
        return sum(reader not in message.seen for message in self.messages.values())

    def learn_uid_validity(self, number: int) -> None:
        """The server says UIDVALIDITY: always the same, and above that of every mailbox that was made before."""
        if not self.uid_validity:
            # RFC 3501 §2.3.1.1: a name made again never repeats one
            require(number > self.above, "UIDVALIDITY of a new mailbox is above the ones before", (number, self.above))
            self.uid_validity = number
        require(number == self.uid_validity, "UIDVALIDITY stays", (number, self.uid_validity))


def _message(number: int, key: int, flags: Flags, seen: frozenset[int], reader: int) -> Message:
    return Message(number, key, flags - {SEEN}, seen | {reader} if SEEN in flags else seen - {reader})


class Cache(NamedTuple):
    """What a client keeps of a mailbox that it leaves; `mod_seq` as RFC 7162 §6 has it find that."""

    uid_validity: int
    mod_seq: int
    uid_next: int
    flags: dict[int, Flags | None]


class View:
    """What the client of one session, which is `reader`'s, holds of its selected mailbox."""

    def __init__(self, mailbox: Mailbox, reader: int, *, is_read_only: bool) -> None:
        self.mailbox = mailbox
        self.reader = reader
        self.is_read_only = is_read_only  # by EXAMINE
        self.uids = list(mailbox.messages)
        self.flags: dict[int, Flags | None] = dict.fromkeys(self.uids)  # None: the client was never told
        # A silent STORE changed what the client had heard no news of: it takes flags for true that nobody ever saw, and
        # is told them again if the message goes
        self.dreamt: set[int] = set()
        # Known since SELECT or before: of a change behind that the server cannot tell whether it is one to this client
        self.cached: set[int] = set()
        self.saved: list[int] = []  # what `$` names (RFC 5182), the removed ones too
        self.uid_next = mailbox.uid_next
        self.version = mailbox.version
        self.highest = 0  # HIGHESTMODSEQ as the client has it
        self.offered: Flags = frozenset()  # what FLAGS told last

    @property
    def rights(self) -> Rights:
        """What the reader may do here now."""
        return self.mailbox.rights(self.reader)

    @property
    def is_closed(self) -> bool:
        """Whether the mailbox is another's and can no longer be read: the next command closes it."""
        return "r" not in self.rights

    @property
    def is_behind(self) -> bool:
        """Whether the mailbox has changed since the last moment at which everything was told."""
        return self.version != self.mailbox.version

    def cache(self) -> Cache:
        """What a client can come back with."""
        return Cache(self.mailbox.uid_validity, self.highest, self.uid_next, dict(self.flags))

    def current(self, uid: int) -> Flags | None:
        """The flags of a message as they are now; None when it is gone."""
        return self.mailbox.flags(uid, self.reader) if uid in self.mailbox.messages else None

    def removed(self) -> list[int]:
        """The uids that are gone and whose EXPUNGE the client has not heard."""
        return [uid for uid in self.uids if uid not in self.mailbox.messages]

    def untold(self) -> str:
        """What is missing for a client that must know everything; "" when nothing is."""
        if self.uids != list(self.mailbox.messages):
            return f"holds {self.uids}, there are {list(self.mailbox.messages)}"
        for uid in self.uids:
            known, now = self.flags[uid], self.current(uid)
            if known is not None and now is not None and known != now:
                return f"uid {uid} has {sorted(now)}, the client believes {sorted(known)}"
        return ""

    def hear_expunge(self, seq: int) -> None:
        """`* n EXPUNGE`: it must be one that is gone."""
        require(1 <= seq <= len(self.uids), "EXPUNGE names a message of the view", (seq, len(self.uids)))
        self._drop(self.uids[seq - 1])

    def hear_vanished(self, uids: Iterable[int]) -> None:
        """`* VANISHED`: they must be in the view, and gone."""
        for uid in uids:
            require(uid in self.flags, "VANISHED names a message of the view", (uid, self.uids))
            self._drop(uid)

    def _drop(self, uid: int) -> None:
        require(uid not in self.mailbox.messages, "EXPUNGE names a removed message", uid)
        self.uids.remove(uid)
        del self.flags[uid]

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

    def hear_flags(self, uid: int, flags: Flags, *, is_late: bool = False) -> None:
        """FLAGS of a FETCH: the present ones; of a removed message (or `is_late`: IDLE) any that it has had."""
        now = self.current(uid)
        if now is None or is_late:
            is_dream = now is None and uid in self.dreamt
            past = self.mailbox.past_flags(uid, self.reader)
            if now is None and self.reader != self.mailbox.owner:
                past |= {one - {SEEN} for one in past}  # what another reader has seen is gone with the message
            require(is_dream or flags in past, "flags told were once true", (uid, flags))
        else:
            require(flags == now, "flags told are true", (uid, flags, now))
            self.dreamt.discard(uid)
        self.cached.discard(uid)
        self.flags[uid] = flags

    def believe(self, uids: Iterable[int], mode: str, flags: Flags) -> None:
        """A silent STORE: the client works out the flags by itself."""
        for uid in uids:
            known = self.flags[uid]
            if mode == "":
                self.flags[uid] = flags
            elif known is not None:
                self.flags[uid] = combined(known, mode, flags)
            now = self.current(uid)
            if now is None or now != self.flags[uid]:
                self.dreamt.add(uid)

    def hear_mod_seq(self, uid: int, mod_seq: int, *, is_late: bool = False) -> None:
        """MODSEQ of a FETCH; `is_late`: it may be from before the last change."""
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


def right_to(flag: str) -> str:
    """The right that setting or clearing the flag takes (RFC 4314 §4)."""
    return {SEEN: "s", "\\Deleted": "t"}.get(flag, "w")


def permitted(old: Flags, new: Flags, rights: Rights) -> Flags:
    """The new flags as far as the rights allow; the others stay."""
    return frozenset(flag for flag in old | new if (flag in new if right_to(flag) in rights else flag in old))


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
