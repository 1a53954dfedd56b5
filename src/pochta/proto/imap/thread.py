"""The threads of a mailbox: ORDEREDSUBJECT, REFERENCES and REFS over plain arrays, and their response.

Theory of operation. A message is a *node*, and nodes are numbered in the order of their sent dates (equal dates: the
mailbox's order). So "sort by sent date" is "sort by number" everywhere, and what is gone through in the order of the
nodes comes out sorted. Message-ids are 64-bit hashes. REFERENCES first links nodes to parents, message by message in
the mailbox's order, ids without a message becoming dummy nodes (numbered after all messages); then each message is
hung below its nearest ancestor that exists, or below the topmost dummy of its line; then threads whose first messages
have the same base subject are merged.

Nothing recurses, since senders decide how deep a thread is. All is linear but the test for loops, which climbs from
the new parent to its root: where a mailbox makes that long, CLIMBS_A_LINK ends it.

Refuses to know: where messages are kept, how subjects are compared (equal ones have equal numbers, 0 is the empty one).

Source: RFC 5256 §3, BASE.6.4.THREAD; draft-ietf-morg-inthread-01 §4 (REFS).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

CLIMBS_A_LINK: Final = 64
"""Steps of all tests for loops together, for each reference of the mailbox. Mail needs under one: a message that nobody
has referred to yet closes no loop. Threads of thousands of levels that are put together from below would need the
square of that; what is over is not linked, as if it closed a loop."""

NAMED_AT_ONCE: Final = 10_000  # ids put into a table in one call that nothing can interrupt: 1 ms


class Forest(NamedTuple):
    """Threads in order: the first node of each, and the children, in order, of every node that has some.

    Nodes below `messages` are messages, others dummies: those stand only at the top and have at least two children.
    """

    messages: int
    roots: list[int]
    children: dict[int, list[int]]


class Ancestry(NamedTuple):
    """What messages say of their ancestors, in the mailbox's order.

    `own`: the hash of each message's own id, 0 where it has none. `ids`: those of the ancestors of all, one message
    after the other and oldest first; `ends`: where those of each message end.
    """

    own: Sequence[int]
    ids: Sequence[int]
    ends: Sequence[int]


def ordered_subject(subjects: Sequence[int]) -> Forest:
    """ORDEREDSUBJECT; `subjects` by node. 0.2 us a message."""
    threads: dict[int, list[int]] = {}
    for node, subject in enumerate(subjects):
        thread = threads.get(subject)
        if thread is None:
            threads[subject] = [node]
        else:
            thread.append(node)
    found = threads.values()
    children = {thread[0]: thread[1:] for thread in found if len(thread) > 1}
    return Forest(len(subjects), [thread[0] for thread in found], children)


def references(ancestry: Ancestry, nodes: Sequence[int], subjects: Sequence[int], is_reply: Sequence[int]) -> Forest:
    """REFERENCES. `nodes`: of the messages in the mailbox's order; `subjects`, `is_reply`: by node. 1 us a message."""
    forest = _gathered(_linked(ancestry, nodes), len(nodes))
    return _with_subjects_merged(forest, subjects, is_reply)


def refs(ancestry: Ancestry, nodes: Sequence[int]) -> Forest:
    """REFS: REFERENCES without subjects, threads in the order of their latest messages."""
    count, roots, children = _gathered(_linked(ancestry, nodes), len(nodes))
    # DEVIATES draft-ietf-morg-inthread-01 §4: the latest sent date counts, not the latest internal date, as in
    # Dovecot, where clients that ask for REFS have met it
    latest = {root: _latest(root, count, children) for root in roots if root in children}
    return Forest(count, _in_order(roots, [latest.get(root, root) for root in roots], count), children)


def _in_order(roots: Sequence[int], messages: Sequence[int], count: int) -> list[int]:
    """The roots in the order of a message of each thread; no sort, which would hold the interpreter to its end."""
    root_of = [-1] * count
    for root, message in zip(roots, messages, strict=True):
        root_of[message] = root
    return [root for root in root_of if root >= 0]


def _latest(root: int, count: int, children: Mapping[int, Sequence[int]]) -> int:
    """The latest message of a thread."""
    latest = root if root < count else -1
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop())
        if below is not None:
            latest = max(latest, below[-1])
            waiting += below
    return latest


def _linked(ancestry: Ancestry, nodes: Sequence[int]) -> list[int]:
    """Step 1: the parent of each node, -1 without one; dummies behind the messages."""
    own, ids, ends = ancestry
    # RFC 5256 §3: of messages with one id the first has it, the others are as if they had none
    node_of: dict[int, int] = {}
    for stop in range(len(nodes), 0, -NAMED_AT_ONCE):
        part = slice(max(0, stop - NAMED_AT_ONCE), stop)
        node_of.update(zip(reversed(own[part]), reversed(nodes[part]), strict=True))
    node_of.pop(0, None)
    parents = [-1] * len(nodes)
    families = [0] * len(nodes)  # how many children each has
    loops = _LoopTest(parents, CLIMBS_A_LINK * (len(ids) + 1))
    start = 0
    for node, end in zip(nodes, ends, strict=True):
        above = -1
        for one in ids[start:end]:
            named = node_of.get(one, -1)
            if named < 0:
                # RFC 5256 §3: an id without a message is a dummy
                named = node_of[one] = len(parents)
                parents.append(-1)
                families.append(0)
            # RFC 5256 §3: what has a parent keeps it, and no link closes a loop
            is_free = above >= 0 > parents[named] and above != named
            if is_free and not (families[named] and loops.would_close(above, named)):
                parents[named] = above
                families[above] += 1
            above = named
        start = end
        was = parents[node]
        if was == above:
            continue
        # RFC 5256 §3, step 1.B: the last reference is the parent, whatever others made of it; without one there is none
        if was >= 0:
            parents[node] = -1
            families[was] -= 1
        if above >= 0 and above != node and not (families[node] and loops.would_close(above, node)):
            parents[node] = above
            families[above] += 1
    return parents


class _LoopTest:
    """Whether a link would close a loop, with an end to the steps that this may take."""

    __slots__ = ("_parents", "_steps")

    def __init__(self, parents: Sequence[int], steps: int) -> None:
        self._parents = parents
        self._steps = steps

    def would_close(self, above: int, node: int) -> bool:
        """Whether `above` is `node` or stands below it; also True when the steps are used up."""
        parents = self._parents
        steps = self._steps
        while above != node and above >= 0 and steps > 0:
            above = parents[above]
            steps -= 1
        self._steps = steps
        return above >= 0


def _gathered(parents: list[int], count: int) -> Forest:
    """Steps 2 to 4: messages below messages or below one dummy at the top, all sorted; takes `parents` over."""
    roots: list[int] = []
    children: dict[int, list[int]] = {}
    for node in range(count):
        above = parents[node]
        if above >= count:
            above = _without_dummies(above, parents, count)
        if above < 0:
            roots.append(node)
            continue
        family = children.get(above)
        if family is not None:
            family.append(node)
        else:
            children[above] = [node]
            if above >= count:
                # RFC 5256 §3, step 4: a dummy is sorted by its first child
                roots.append(above)
    # RFC 5256 §3, step 3: the only child of a dummy takes its place
    roots = [children.pop(root)[0] if root >= count and len(children[root]) == 1 else root for root in roots]
    return Forest(count, roots, children)


def _without_dummies(above: int, parents: list[int], count: int) -> int:
    """The nearest message above a dummy, else the topmost dummy; the way is made shorter for the next one."""
    passed: list[int] = []
    while above >= count and parents[above] >= 0:
        passed.append(above)
        above = parents[above]
    for one in passed:
        parents[one] = above
    return above


def _with_subjects_merged(forest: Forest, subjects: Sequence[int], is_reply: Sequence[int]) -> Forest:
    """Step 5, and step 6 for what it has moved."""
    count, roots, children = forest
    heads = [root if root < count else children[root][0] for root in roots]
    shown = [subjects[head] for head in heads]
    times = Counter(shown)
    # RFC 5256 §3, step 5.B.ii: an empty subject gathers nothing
    several: dict[int, list[int]] = {subject: [] for subject, number in times.items() if number > 1 and subject}
    if not several:
        return forest
    for root, subject in zip(roots, shown, strict=True):
        if subject in several:
            several[subject].append(root)
    moved: set[int] = set()
    made: list[int] = []
    dummy = max(max(children, default=0), count - 1) + 1
    for group in several.values():
        if _merge(group, dummy, forest, is_reply, moved):
            made.append(dummy)
            dummy += 1
    kept = [root for root in roots if root not in moved]
    kept += made
    first = [root if root < count else children[root][0] for root in kept]
    return Forest(count, _in_order(kept, first, count), children)


def _merge(group: Sequence[int], dummy: int, forest: Forest, is_reply: Sequence[int], moved: set[int]) -> bool:
    """Make one thread of those in `group`, which have one subject; whether `dummy` was made for that.

    What no longer stands at the top is added to `moved`.
    """
    count, _, children = forest
    top = group[0]
    for root in group:
        # RFC 5256 §3, step 5.B.iv: a dummy goes before a message, a first message before a reply
        if top < count and (root >= count or (is_reply[top] and not is_reply[root])):
            top = root
    has_made = False
    for root in group:
        if root == top or root in moved:
            continue
        moved.add(root)
        if root >= count:
            # step 5.C: two dummies become one
            children[top] += children.pop(root)
        elif top >= count or (is_reply[root] and not is_reply[top]):
            children.setdefault(top, []).append(root)
        else:
            # neither is known to be the answer to the other: both hang below a new dummy
            moved.add(top)
            children[dummy] = [top, root]
            children.get(top, []).sort()
            top, has_made = dummy, True
    children[top].sort()
    return has_made


def render(forest: Forest, labels: Sequence[str]) -> bytes:
    """The threads as after `* THREAD `; `labels`: the number of each message, by node. 0.1 us a message."""
    roots, children = forest.roots, forest.children
    out: list[str] = []
    for root in roots:
        if root in children:
            _render_thread(root, forest, labels, out)
        else:
            out.append(f"({labels[root]})")
    return "".join(out).encode("ascii")


def _render_thread(root: int, forest: Forest, labels: Sequence[str], out: list[str]) -> None:
    count, _, children = forest
    waiting: list[int | str] = [")", root, "("]
    while waiting:
        item = waiting.pop()
        while not isinstance(item, str):
            below = children.get(item)
            if item < count:
                out.append(labels[item])
                if below is not None:
                    out.append(" ")
            if below is None:
                break
            if len(below) == 1:
                # RFC 5256 §4: an only child follows its parent
                item = below[0]
                continue
            for child in reversed(below):
                waiting += (")", child, "(")
            break
        else:
            out.append(item)
