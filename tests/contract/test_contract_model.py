"""Random walks: after every step the store says what a few dictionaries say, and contradicts itself nowhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from store_harness import EVERYTHING, NOW, Backend, item, new_message

from pochta.errors import Refusal, RefusalCode
from pochta.store import flags, invariants, mailboxes, messages
from pochta.store.changes import UidRange
from pochta.store.placements import FlagMode
from pochta.store.tx import Tx

PATHS = ("INBOX", "Sent", "x", "x/y", "y", "y/z")
KEYWORDS = ("red", "green", "blue")
QUOTA = 9000
RANGES: tuple[tuple[UidRange, ...], ...] = (EVERYTHING, ((1, 1),), ((2, 5),), ((1, 2), (4, 4), (6, 90)), ((3, 1000),))


@dataclass
class Box:
    uid_validity: int
    uid_next: int = 1
    is_name_only: bool = False  # of mailboxes below it
    placed: dict[int, tuple[int, int]] = field(default_factory=dict)  # uid -> (message, flags)

    def uids(self, ranges: Sequence[UidRange]) -> list[int]:
        return [uid for uid in sorted(self.placed) if any(first <= uid <= last for first, last in ranges)]

    def add(self, message: int, bits: int) -> int:
        self.placed[self.uid_next] = message, bits
        self.uid_next += 1
        return self.uid_next - 1


class Walk:
    """One account in the store and in the model."""

    def __init__(self, backend: Backend, account: int) -> None:
        self.backend, self.account = backend, account
        self.sizes: list[int] = []
        self.bits: dict[str, int] = {}
        found = backend.read(account, mailboxes.list_all, account)
        self.boxes = {mailbox.path: Box(mailbox.uid_validity) for mailbox in found}
        self.mod_seq = backend.mod_seq(account)
        self.validity = max(box.uid_validity for box in self.boxes.values())

    def used(self) -> dict[int, int]:
        ids = {message for box in self.boxes.values() for message, _ in box.placed.values()}
        return {message: self.sizes[message] for message in ids | self.detached}

    detached: frozenset[int] = frozenset()  # what stands in removed mailboxes counts until the sweeper has been there

    def call(self, want: RefusalCode | None, fn, *args: object, **options: object) -> object:
        """`fn` does it, or refuses as the model foresaw and changes nothing."""
        if want is None:
            return fn(*args, **options)
        with pytest.raises(Refusal) as caught:
            fn(*args, **options)
        assert caught.value.code is want
        return None

    def step(self, number: int, pick: int) -> None:
        steps = (self.deliver, self.append, self.append, self.set_flags, self.set_flags, self.copy, self.copy)
        steps += (self.move, self.expunge, self.create, self.rename, self.remove)
        before = self.backend.mod_seq(self.account)
        steps[number % len(steps)](pick)
        assert self.backend.mod_seq(self.account) in (before, before + 1)
        self.compare()

    def choose(self, pick: int) -> tuple[str, str, Sequence[UidRange]]:
        """A mailbox that mostly exists, another that may, and uids."""
        there = [path for path in PATHS if path in self.boxes]
        path = there[pick % 7 % len(there)] if pick % 7 else PATHS[pick // 7 % 6]
        return path, PATHS[pick // 49 % 6], RANGES[pick // 294 % 5]

    def room_for(self, size: int) -> RefusalCode | None:
        return RefusalCode.OVER_QUOTA if sum(self.used().values()) + size > QUOTA else None

    def holds_messages(self, path: str) -> bool:
        return path in self.boxes and not self.boxes[path].is_name_only

    def deliver(self, pick: int) -> None:
        size = 40 + pick % 300
        want = self.room_for(size)
        new = new_message(size, refs=[pick % 5, pick % 7])
        self.call(want, self.backend.write, self.account, messages.deliver, [self.account], new)
        if want is None:
            self.sizes.append(size)
            self.boxes["INBOX"].add(len(self.sizes) - 1, 0)

    def append(self, pick: int) -> None:
        path, _, _ = self.choose(pick)
        sizes = [40 + (pick >> n) % 200 for n in range(1 + pick % 3)]
        bits, keywords = pick // 7 % 32, KEYWORDS[: pick // 224 % 3]
        want = self.room_for(sum(sizes)) if self.holds_messages(path) else RefusalCode.NOT_FOUND
        items = [item(size, bits, keywords) for size in sizes]
        done = self.call(want, self.backend.append, self.account, path, *items)
        if want is None:
            bits |= self.keyword_bits(keywords)
            uids = []
            for size in sizes:
                self.sizes.append(size)
                uids.append(self.boxes[path].add(len(self.sizes) - 1, bits))
            assert done == (self.boxes[path].uid_validity, tuple(uids))

    def keyword_bits(self, keywords: Sequence[str]) -> int:
        return sum(self.bits.setdefault(name, 32 << len(self.bits)) for name in keywords)

    def set_flags(self, pick: int) -> None:
        path, _, ranges = self.choose(pick)
        if path not in self.boxes:
            return
        mode, bits, keywords = FlagMode(pick // 1470 % 3), pick // 4410 % 32, KEYWORDS[: pick // 141120 % 3]
        self.backend.set_flags(self.account, path, mode, bits, *keywords, ranges=ranges)
        if mode is FlagMode.REMOVE:
            bits |= sum(self.bits.get(name, 0) for name in keywords)
        else:
            bits |= self.keyword_bits(keywords)
        box = self.boxes[path]
        for uid in box.uids(ranges):
            message, old = box.placed[uid]
            new = {FlagMode.REPLACE: bits, FlagMode.ADD: old | bits, FlagMode.REMOVE: old & ~bits}[mode]
            box.placed[uid] = message, new

    def copy(self, pick: int, *, is_move: bool = False) -> None:
        path, to_path, ranges = self.choose(pick)
        if path not in self.boxes:
            return
        want = None if self.holds_messages(to_path) else RefusalCode.NOT_FOUND
        verb = self.backend.move if is_move else self.backend.copy
        done = self.call(want, verb, self.account, path, to_path, ranges)
        if want is None:
            box, target = self.boxes[path], self.boxes[to_path]
            uids = box.uids(ranges)
            assert done == (target.uid_validity, tuple(uids), tuple(target.add(*box.placed[uid]) for uid in uids))
            for uid in uids if is_move else ():
                del box.placed[uid]

    def move(self, pick: int) -> None:
        self.copy(pick, is_move=True)

    def expunge(self, pick: int) -> None:
        path, _, ranges = self.choose(pick)
        if path in self.boxes:
            box, needs_deleted = self.boxes[path], bool(pick // 1470 % 3)
            gone = [uid for uid in box.uids(ranges) if not needs_deleted or box.placed[uid][1] & flags.DELETED]
            assert self.backend.expunge(self.account, path, ranges, needs_deleted=needs_deleted) == len(gone)
            for uid in gone:
                del box.placed[uid]

    def create(self, pick: int) -> None:
        path = PATHS[pick % 6]
        want = RefusalCode.EXISTS if self.holds_messages(path) else None
        self.call(want, self.backend.write, self.account, mailboxes.create, self.account, path, NOW)
        if want is None:
            self.make(path)

    def make(self, path: str) -> None:
        names = path.split("/")
        for level in range(1, len(names) + 1):
            if "/".join(names[:level]) not in self.boxes:
                self.validity += 1
                self.boxes["/".join(names[:level])] = Box(self.validity)
        self.boxes[path].is_name_only = False

    def rename(self, pick: int) -> None:
        old, new, _ = self.choose(pick)
        want = None
        if old not in self.boxes:
            want = RefusalCode.NOT_FOUND
        elif old == "INBOX":
            want = RefusalCode.CANNOT
        elif new in self.boxes:
            want = RefusalCode.EXISTS
        elif new.startswith(old + "/"):
            want = RefusalCode.CANNOT
        self.call(want, self.backend.write, self.account, mailboxes.rename, self.account, old, new, NOW)
        if want is None:
            if "/" in new and new.rpartition("/")[0] not in self.boxes:
                self.make(new.rpartition("/")[0])
            for path in [path for path in self.boxes if path == old or path.startswith(old + "/")]:
                self.boxes[new + path[len(old) :]] = self.boxes.pop(path)

    def remove(self, pick: int) -> None:
        path, _, _ = self.choose(pick)
        want = None
        if path not in self.boxes:
            want = RefusalCode.NOT_FOUND
        elif path == "INBOX":
            want = RefusalCode.CANNOT
        has_children = any(other.startswith(path + "/") for other in self.boxes)
        if want is None and has_children and self.boxes[path].is_name_only:
            want = RefusalCode.HAS_CHILDREN
        self.call(want, self.backend.write, self.account, mailboxes.remove, self.account, path, NOW)
        if want is None:
            self.detached |= {message for message, _ in self.boxes.pop(path).placed.values()}
        if want is None and has_children:
            self.validity += 1
            self.boxes[path] = Box(self.validity, is_name_only=True)

    def compare(self) -> None:
        found = {mailbox.path: mailbox for mailbox in self.backend.read(self.account, mailboxes.list_all, self.account)}
        assert found.keys() == self.boxes.keys()
        for path, box in self.boxes.items():
            mailbox, bits = found[path], [bits for _, bits in box.placed.values()]
            unseen, deleted = sum(not b & flags.SEEN for b in bits), sum(bool(b & flags.DELETED) for b in bits)
            total = sum(self.sizes[message] for message, _ in box.placed.values())
            assert (*mailbox[3:5], mailbox.is_noselect) == (box.uid_validity, box.uid_next, box.is_name_only)
            assert mailbox[6:10] == (len(bits), unseen, deleted, total)
            assert self.backend.flags(self.account, path) == {uid: bits for uid, (_, bits) in box.placed.items()}
        assert self.backend.quota(self.account) == (len(self.used()), sum(self.used().values()))
        assert self.backend.read(self.account, account_findings, self.account) == []


def account_findings(tx: Tx, account_id: int) -> list[str]:
    findings = [finding for step in invariants.ACCOUNT_STEPS for finding in step(tx, account_id)]
    return [str(finding) for finding in findings if finding.severity == "error"]


def walks(length: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(0, 11), st.integers(0, 1 << 20)), min_size=length, max_size=length)


def walk_on(backend: Backend, steps: list[tuple[int, int]]) -> None:
    count = backend.query("SELECT count(*) FROM account")[0][0]
    walk = Walk(backend, backend.new_account(f"walker{count}", QUOTA))
    for pick in (71, 3579, 12):
        walk.append(pick)
    for number, pick in steps:
        walk.step(number, pick)


# Without shrinking: each of its thousands of attempts would be a walk over a real store.
COMMON = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(COMMON, max_examples=12)
@given(steps=walks(40))
def test_random_walk_on_sqlite(sqlite: Backend, steps: list[tuple[int, int]]) -> None:
    walk_on(sqlite, steps)


@settings(COMMON, max_examples=3)
@given(steps=walks(20))
def test_random_walk(backend: Backend, steps: list[tuple[int, int]]) -> None:
    walk_on(backend, steps)
