"""Threads against RFC 5256 followed word by word: slow, with objects and recursion."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.proto.imap import thread


class Mail(NamedTuple):
    """A message; ids are small numbers, 0 is none; `date` may be that of others."""

    own: int = 0
    refs: tuple[int, ...] = ()
    date: int = 0
    subject: int = 0
    is_reply: bool = False


class Container:
    """A message, or a dummy where `mail` is None."""

    def __init__(self, number: int = 0, mail: Mail | None = None) -> None:
        self.number = number
        self.mail = mail
        self.parent: Container | None = None
        self.children: list[Container] = []

    def is_above(self, other: "Container") -> bool:
        at: Container | None = other
        while at is not None and at is not self:
            at = at.parent
        return at is self

    def move(self, parent: "Container | None") -> None:
        if self.parent is not None:
            self.parent.children.remove(self)
        self.parent = parent
        if parent is not None:
            parent.children.append(self)

    def key(self) -> tuple[int, int]:
        if self.mail is None:
            return min(child.key() for child in self.children)
        return self.mail.date, self.number

    def latest(self) -> tuple[int, int]:
        own = [] if self.mail is None else [self.key()]
        return max(own + [child.latest() for child in self.children])

    def thread_subject(self) -> Mail:
        return self.mail or min(self.children, key=Container.key).mail or Mail()

    def show(self) -> str:
        shown = "" if self.mail is None else str(self.number)
        ordered = sorted(self.children, key=Container.key)
        if not ordered:
            return shown
        below = ordered[0].show() if len(ordered) == 1 else "".join(f"({child.show()})" for child in ordered)
        return f"{shown} {below}" if shown else below


def linked(mails: Sequence[Mail]) -> list[Container]:
    """Step 1: all containers."""
    table: dict[int, Container] = {}
    everyone: list[Container] = []
    for number, mail in enumerate(mails, 1):
        one = Container(number, mail)
        everyone.append(one)
        if mail.own and mail.own not in table:
            table[mail.own] = one
    for one in list(everyone):
        assert one.mail is not None
        chain: list[Container] = []
        for ref in one.mail.refs:
            if ref not in table:
                table[ref] = Container()
                everyone.append(table[ref])
            chain.append(table[ref])
        for above, below in pairwise(chain):
            if below.parent is None and not below.is_above(above):
                below.move(above)
        last = chain[-1] if chain else None
        if one.parent is not last:
            one.move(None)
        if last is not None and one.parent is not last and not one.is_above(last):
            one.move(last)
    return everyone


def pruned(siblings: list[Container], *, is_root: bool) -> list[Container]:
    """Step 3."""
    found: list[Container] = []
    for one in siblings:
        one.children = pruned(one.children, is_root=False)
        if one.mail is not None or (is_root and len(one.children) > 1):
            found.append(one)
        else:
            found += one.children
    return found


def merged(roots: list[Container], *, are_replies_below: bool = True) -> list[Container]:
    """Step 5."""
    table: dict[int, Container] = {}
    for one in roots:
        subject = one.thread_subject().subject
        if not subject:
            continue
        held = table.get(subject)
        if held is None or (
            held.mail is not None and (one.mail is None or (held.mail.is_reply and not one.mail.is_reply))
        ):
            table[subject] = one
    found = list(roots)
    for one in roots:
        subject = one.thread_subject().subject
        if not subject or one not in found or table[subject] is one:
            continue
        held = table[subject]
        found.remove(one)
        if held.mail is None and one.mail is None:
            held.children += one.children
        elif held.mail is None or (one.mail is not None and one.mail.is_reply and not held.mail.is_reply):
            held.children.append(one)
        else:
            dummy = Container()
            dummy.children = [held, one]
            found.remove(held)
            found.append(dummy)
            table[subject] = dummy
    return found


def slow_references(mails: Sequence[Mail]) -> str:
    roots = pruned([one for one in linked(mails) if one.parent is None], is_root=True)
    found = merged(sorted(roots, key=Container.key))
    return "".join(f"({one.show()})" for one in sorted(found, key=Container.key))


def slow_refs(mails: Sequence[Mail]) -> str:
    roots = pruned([one for one in linked(mails) if one.parent is None], is_root=True)
    return "".join(f"({one.show()})" for one in sorted(roots, key=Container.latest))


def slow_ordered_subject(mails: Sequence[Mail]) -> str:
    numbers = sorted(range(len(mails)), key=lambda at: (mails[at].subject, mails[at].date, at))
    threads: dict[int, list[int]] = {}
    for at in numbers:
        threads.setdefault(mails[at].subject, []).append(at)
    shown = []
    for members in sorted(threads.values(), key=lambda members: (mails[members[0]].date, members[0])):
        first, *others = [str(at + 1) for at in members]
        rest = "".join(f"({other})" for other in others) if len(others) > 1 else "".join(others)
        shown.append(f"({first} {rest})" if others else f"({first})")
    return "".join(shown)


class Given(NamedTuple):
    """Messages as the module wants them."""

    ancestry: thread.Ancestry
    nodes: list[int]
    subjects: list[int]
    is_reply: list[bool]
    labels: list[str]


def prepared(mails: Sequence[Mail]) -> Given:
    order = sorted(range(len(mails)), key=lambda at: (mails[at].date, at))
    nodes = [0] * len(mails)
    for node, at in enumerate(order):
        nodes[at] = node
    ids = [ref for mail in mails for ref in mail.refs]
    ends: list[int] = []
    for mail in mails:
        ends.append((ends[-1] if ends else 0) + len(mail.refs))
    return Given(
        thread.Ancestry([mail.own for mail in mails], ids, ends),
        nodes,
        [mails[at].subject for at in order],
        [mails[at].is_reply for at in order],
        [str(at + 1) for at in order],
    )


def fast_references(mails: Sequence[Mail]) -> str:
    one = prepared(mails)
    forest = thread.references(one.ancestry, one.nodes, one.subjects, one.is_reply)
    return thread.render(forest, one.labels).decode()


def fast_refs(mails: Sequence[Mail]) -> str:
    one = prepared(mails)
    return thread.render(thread.refs(one.ancestry, one.nodes), one.labels).decode()


def fast_ordered_subject(mails: Sequence[Mail]) -> str:
    one = prepared(mails)
    return thread.render(thread.ordered_subject(one.subjects), one.labels).decode()


def replies(*parents: int) -> list[Mail]:
    """Messages with ids 1, 2, …; each answers the one named (0: none)."""
    return [Mail(own=number, refs=(parent,) if parent else (), date=number) for number, parent in enumerate(parents, 1)]


CASES: Final = {
    "empty": ([], ""),
    "one": ([Mail()], "(1)"),
    "chain": (replies(0, 1, 2), "(1 2 3)"),
    # RFC 5256 §4: the tree of the example, its numbers in order of their dates
    "tree": (replies(0, 0, 2, 3, 4, 3, 6, 7), "(1)(2 3 (4 5)(6 7 8))"),
    "siblings of an absent parent": ([Mail(1, (9,)), Mail(2, (9,))], "((1)(2))"),
    "only child of an absent parent": ([Mail(1, (9,))], "(1)"),
    "absent in between": ([Mail(1), Mail(2, (1, 9))], "(1 2)"),
    "two absent ones in a line": ([Mail(1, (8, 9)), Mail(2, (8,))], "((1)(2))"),
    "answers itself": ([Mail(1, (1,))], "(1)"),
    "each answers the other": ([Mail(1, (2,)), Mail(2, (1,))], "(2 1)"),
    "same id": ([Mail(1), Mail(1), Mail(2, (1,))], "(1 3)(2)"),
    "truncated references": ([Mail(3, (2,)), Mail(2, (1,)), Mail(1)], "(3 2 1)"),
    "a link that others made is broken": ([Mail(5, (1, 2)), Mail(2), Mail(1)], "(2 1)(3)"),
    "date before the parent's": ([Mail(1, date=9), Mail(2, (1,), date=1), Mail(3, date=5)], "(3)(1 2)"),
    "equal dates": ([Mail(1), Mail(2), Mail(3, (1,)), Mail(4, (1,))], "(1 (3)(4))(2)"),
    "reply by subject": ([Mail(1, subject=7), Mail(2, subject=7, is_reply=True)], "(1 2)"),
    "reply before what it answers": ([Mail(1, subject=7, is_reply=True), Mail(2, subject=7)], "(2 1)"),
    "two of one subject": ([Mail(1, subject=7), Mail(2, subject=7)], "((1)(2))"),
    "two replies": ([Mail(1, subject=7, is_reply=True), Mail(2, subject=7, is_reply=True)], "((1)(2))"),
    "no subject": ([Mail(1), Mail(2)], "(1)(2)"),
    "a dummy takes its subject's messages": (
        [Mail(1, subject=7), Mail(2, (9,), subject=7), Mail(3, (9,), subject=8), Mail(4, subject=7, is_reply=True)],
        "((1)(2)(3)(4))",
    ),
    "two dummies of one subject": (
        [Mail(1, (8,), subject=7), Mail(2, (8,)), Mail(3, (9,), subject=7), Mail(4, (9,))],
        "((1)(2)(3)(4))",
    ),
}


@pytest.mark.rfc(5256, "3")
@pytest.mark.parametrize(("mails", "want"), CASES.values(), ids=CASES.keys())
def test_references(mails: list[Mail], want: str) -> None:
    assert slow_references(mails) == want
    assert fast_references(mails) == want


@pytest.mark.rfc(5256, "3")
def test_ordered_subject_has_no_grandchildren() -> None:
    mails = [Mail(date=3, subject=1), Mail(date=1, subject=2), Mail(date=1, subject=1), Mail(date=0, subject=3)]
    mails += [Mail(date=9, subject=1), Mail(date=9, subject=2)]
    assert fast_ordered_subject(mails) == "(4)(2 6)(3 (1)(5))"


def test_refs_puts_the_latest_thread_last_and_ignores_subjects() -> None:
    mails = [Mail(1, subject=7, date=1), Mail(2, subject=7, date=2), Mail(3, (1,), date=3), Mail(4, (9,), date=0)]
    mails += [Mail(5, (9,), date=4)]
    assert fast_refs(mails) == "(2)(1 3)((4)(5))"


IDS: Final = st.integers(0, 6)
MAILS: Final = st.lists(
    st.builds(
        Mail,
        own=IDS,
        refs=st.lists(st.integers(1, 8), max_size=4).map(tuple),
        date=st.integers(0, 4),
        subject=st.integers(0, 3),
        is_reply=st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        pytest.param(fast_references, slow_references, id="references"),
        pytest.param(fast_refs, slow_refs, id="refs"),
        pytest.param(fast_ordered_subject, slow_ordered_subject, id="orderedsubject"),
    ],
)
@settings(max_examples=600, deadline=None)
@given(mails=MAILS)
def test_equals_the_text_of_the_rfc(
    fast: Callable[[Sequence[Mail]], str], slow: Callable[[Sequence[Mail]], str], mails: list[Mail]
) -> None:
    assert fast(mails) == slow(mails)


def hostile(kind: str, count: int) -> list[Mail]:
    """Mailboxes that cost a careless server the square of their size, or its stack."""
    if kind == "deep":
        return [Mail(number, (number - 1,) if number > 1 else (), number) for number in range(1, count + 1)]
    if kind == "deep, last first":
        return [Mail(number, (number + 1,), number) for number in range(1, count + 1)]
    if kind == "absent line":
        return [Mail(number, (count + number, count + number + 1), number) for number in range(1, count + 1)]
    if kind == "trees on a deep one":
        half = count // 2
        line = [Mail(number, (number - 1,) if number > 1 else (), number) for number in range(1, half + 1)]
        # each comes with a child of its own and is then hung below the end of the line
        return line + [
            Mail(3 * count + number, (count + number, 2 * count + number, half, count + number), half + number)
            for number in range(half)
        ]
    if kind == "one subject":
        return [Mail(number, (), number, 1, number % 2 == 0) for number in range(1, count + 1)]
    # spread by a multiplier that has no factor in common with the count
    spread = [number * 7919 % count for number in range(count * 8)]
    return [
        Mail(spread[at], tuple(1 + ref for ref in spread[at * 3 : at * 3 + 8]), spread[-at], spread[at] % 50)
        for at in range(count)
    ]


@pytest.mark.parametrize(
    "kind", ["deep", "deep, last first", "absent line", "trees on a deep one", "one subject", "wild"]
)
def test_hostile_mailbox_is_threaded_whole(kind: str) -> None:
    count = 100_000 if kind != "wild" else 20_000
    shown = fast_references(hostile(kind, count))
    numbers = [int(number) for number in shown.replace("(", " ").replace(")", " ").split()]
    assert sorted(numbers) == list(range(1, count + 1))
    assert shown.count("(") == shown.count(")")
