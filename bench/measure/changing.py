"""Cases that ask one large mailbox again and again, so that nobody can answer from memory.

Between two repeats a message is delivered, one is flagged and one expunged, over another connection, and the next
question asks for another word, sender, day or key. Every answer is counted. *first* is the first time after the
mailbox was filled, *cold* the first after a restart, *warm* a repeat over the same connection.

The NOOP that shows the changes to the measuring connection comes before the measured command: how long it took is told
beside it (`noop_ms`), not in it.
"""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from measure.planted import SENDERS, SUBJECTS, WORDS, Model, imap_date

if TYPE_CHECKING:
    from measure.load import Load, Meter

WARM = 3
WARM_SLOW = 1
SLOW_OF = 20_000  # a peer reads every message of so many for BODY: seconds each time
SELECTS, STATUSES, NOOPS, PAGES, PAGE = 5, 100, 300, 100, 50
AT_ONCE = 20  # of STATUS and pages, between two changes


class Mailbox:
    """A mailbox filled for this case, the connection that measures, and the one that changes it meanwhile."""

    def __init__(self, load: "Load", count: int) -> None:
        self.load, self.count = load, count
        self.label = load.bench.kn(count)
        self.name = f"box{self.label}".encode()
        self.noop_ms: list[float] = []
        self._is_touched = True  # since the last meter
        gen = load.bench.Gen("tiny")
        self._gen = gen
        self.model = Model(range(count), (b"\\Seen" in gen.flags(number) for number in range(count)))
        self._changer: Any = None
        self.imap: Any = None
        imap = load.bench.SImap(load.args)
        imap.cmd(b"CREATE " + self.name)
        self.caps = imap.caps
        m, size = load.fill(imap, self.name.decode(), count, "tiny")
        load.emit(f"fill-tiny-{self.label}", "msg/s", count / m.wall, count, m, mb=round(size / 1e6, 1))
        imap.close()

    def connect(self) -> Any:
        """A new connection, signed in, nothing selected."""
        self._is_touched = True
        return self.load.bench.SImap(self.load.args)

    def open(self, *, after_restart: bool = False) -> None:
        """A new measuring connection in the mailbox."""
        self.close()
        if after_restart:
            self.load.restart()
        self.imap = self.connect()
        self.check("EXISTS", self.imap.exists(self.name), self.count)

    def ready(self, kind: str, *, is_new: bool) -> None:
        """Open it, after a restart if it is to be cold; `is_new`: a round of warm questions begins, so change it."""
        if self.imap is None or kind == "cold":
            self.open(after_restart=kind == "cold")
        if kind == "warm" and is_new:
            self.change()

    def close(self) -> None:
        """Both connections."""
        for one in (self.imap, self._changer):
            if one is not None:
                one.close()
        self.imap = self._changer = None

    def change(self) -> None:
        """A flag, a delivery, an expunge; then the measuring connection is shown them."""
        if self._changer is None:
            self._changer = self.connect()
            self._changer.exists(self.name)
        self._is_touched = True
        change = self.model.next_change()
        self._changer.cmd(b"STORE %d %sFLAGS (\\Seen)" % (change.flip, b"+" if change.becomes_seen else b"-"))
        self._changer.append(self.name, self._gen.make(change.new), self.load.bench.idate(change.new) + b" ")
        self._changer.cmd(b"NOOP")
        self._changer.cmd(b"STORE %d +FLAGS.SILENT (\\Deleted)" % change.gone)
        self._changer.cmd(b"EXPUNGE")
        if self.imap is not None:
            began = time.perf_counter()
            self.imap.cmd(b"NOOP")
            self.noop_ms.append((time.perf_counter() - began) * 1e3)

    def check(self, what: str, got: int, wanted: int) -> None:
        """Tell a wrong answer."""
        self.load.is_right(f"{what} in {self.label}", got, wanted)

    def metered(self, work: Callable[..., Any], *args: object) -> tuple["Meter", Any]:
        """(the meter, what `work(*args)` gave)."""
        with self.load.meter(is_reading=True, is_resting=not self._is_touched) as m:
            done = work(*args)
        self._is_touched = False
        return m, done

    def emit(self, case: str, unit: str, value: float, n: int, m: "Meter", lat: list[float], **more: object) -> None:
        """One result; how long the NOOPs before took goes with it."""
        if self.noop_ms:
            more["noop_ms"] = round(median(self.noop_ms), 3)
            self.noop_ms.clear()
        self.load.emit(f"imap-{case}", unit, value, n, m, lat, **more)

    def once(self) -> list[str]:
        """first, and cold unless it is left out."""
        return ["first", "cold"] if self.load.order.is_cold else ["first"]

    def kinds(self) -> list[str]:
        """first, cold, and warm some times."""
        return [*self.once(), *["warm"] * WARM]


def _mailboxes(load: "Load") -> Iterator[Mailbox]:
    for count in load.args.sizes:
        mailbox = Mailbox(load, count)
        yield mailbox
        mailbox.close()


def select(load: "Load") -> None:
    """SELECT after filling, after a restart, by a new connection, again; STATUS and NOOP."""
    for box in _mailboxes(load):
        for kind in (*box.once(), *["newconn"] * SELECTS):
            if kind == "cold":
                load.restart()
            elif kind == "newconn":
                box.change()
            imap = box.connect()
            m, have = box.metered(imap.exists, box.name)
            box.check("SELECT", have, box.count)
            box.emit(f"select-{box.label}-{kind}", "ms", m.wall * 1e3, 1, m, [m.wall])
            imap.close()
        _small(box)


def _small(box: Mailbox) -> None:
    box.open()
    imap = box.imap
    status = b"STATUS %s (MESSAGES UIDNEXT UNSEEN)" % box.name
    _blocks(box, f"select-{box.label}-again", SELECTS, 1, lambda _: imap.exists(box.name))
    imap.cmd(b"UNSELECT" if b" UNSELECT" in imap.caps else b"CLOSE")
    _blocks(box, f"status-{box.label}", STATUSES, AT_ONCE, lambda _: imap.cmd(status))
    imap.exists(box.name)
    _blocks(box, f"noop-{box.label}", NOOPS, NOOPS, lambda _: imap.cmd(b"NOOP"))


def _blocks(box: Mailbox, case: str, count: int, at_once: int, work: Callable[[int], Any], unit: str = "ms") -> None:
    """`work(i)` so many times, with a change of the mailbox before each block of `at_once`; one result."""
    total: Meter | None = None
    lat: list[float] = []

    def block(first: int) -> None:
        for number in range(first, first + at_once):
            began = time.perf_counter()
            work(number)
            lat.append(time.perf_counter() - began)

    for first in range(0, count, at_once):
        box.change()
        m, _ = box.metered(block, first)
        if total is None:
            total = m
        else:
            total += m
    if total is not None:
        value = median(lat) * 1e3 if unit == "ms" else count / total.wall
        box.emit(case, unit, value, count, total, lat)


def fetch_meta(load: "Load") -> None:
    """What a client asks of a whole mailbox, and a page of 50 somewhere in it."""
    for box in _mailboxes(load):
        for kind in box.kinds():
            for name, command in load.bench.META:
                box.ready(kind, is_new=name == load.bench.META[0][0])
                m, (size, found) = box.metered(box.imap.count, command)
                box.check(f"FETCH {name}", found, box.count)
                case = f"fetch-{name}-{box.label}-{kind}"
                box.emit(case, "msg/s", box.count / m.wall, box.count, m, [], mb=round(size / 1e6, 2))
        _pages(box)


def _pages(box: Mailbox) -> None:
    fields = b"UID FLAGS ENVELOPE BODYSTRUCTURE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (%s)]" % box.load.bench.HF

    def page(number: int) -> None:
        first = number * 104_729 % max(1, box.count - PAGE) + 1
        box.imap.cmd(b"FETCH %d:%d (%s)" % (first, first + PAGE - 1, fields))

    _blocks(box, f"fetch-page50-{box.label}", PAGES, AT_ONCE, page, "page/s")


def _hits(answer: bytes, word: bytes) -> int:
    """Numbers in the untagged answer; -1 without one."""
    begin = answer.find(b"* " + word)
    return -1 if begin < 0 else len(answer[begin : answer.find(b"\r\n", begin)].split()) - 2


def _searches(model: Model, turn: int) -> Iterator[tuple[str, Callable[[], tuple[bytes, int]], bool]]:
    """(name, what gives the key and how many must be found, whether a peer reads all messages for it)."""

    def since() -> tuple[bytes, int]:
        day = model.day_at(0.9 - 0.05 * (turn % 10))
        return b"SINCE " + imap_date(day), model.since(day)

    def text(key: bytes, values: tuple[str, ...], which: int) -> Callable[[], tuple[bytes, int]]:
        return lambda: (
            b'%s "%s"' % (key, values[which % len(values)].lower().encode()),
            model.planted(values, which),
        )

    yield "unseen", lambda: (b"UNSEEN", model.unseen), False
    yield "since", since, False
    yield "from", text(b"FROM", SENDERS, turn * 3 + 1), False
    yield "subject", text(b"SUBJECT", SUBJECTS, turn * 3 + 2), False
    yield "body", text(b"BODY", WORDS, turn * 7 + 3), True
    yield "text", text(b"TEXT", WORDS, turn * 7 + 6), True


def search(load: "Load") -> None:
    """SEARCH by flag, day, sender, subject, body and text; another one each time, and its hits counted."""
    for box in _mailboxes(load):
        for turn, kind in enumerate(box.kinds()):
            is_late = turn >= len(box.once()) + WARM_SLOW
            for name, question, is_slow in _searches(box.model, turn):
                if is_slow and is_late and box.count > SLOW_OF:
                    continue
                box.ready(kind, is_new=name == "unseen")
                key, wanted = question()
                m, answer = box.metered(box.imap.cmd, b"UID SEARCH " + key)
                hits = _hits(answer, b"SEARCH")
                box.check(f"SEARCH {key.decode()}", hits, wanted)
                case = f"search-{name}-{box.label}-{kind}"
                box.emit(case, "ms", m.wall * 1e3, box.count, m, [m.wall], hits=hits)


SORTS = (
    ("sort-date", b" SORT", b"UID SORT (DATE) UTF-8 ALL"),
    ("sort-rarrival", b" SORT", b"UID SORT (REVERSE ARRIVAL) UTF-8 ALL"),
    ("sort-subject", b" SORT", b"UID SORT (SUBJECT) UTF-8 ALL"),
    ("sort-from", b" SORT", b"UID SORT (FROM) UTF-8 ALL"),
    ("thread-refs", b"THREAD=REFERENCES", b"UID THREAD REFERENCES UTF-8 ALL"),
    ("thread-refs2", b"THREAD=REFS", b"UID THREAD REFS UTF-8 ALL"),
)


def sort(load: "Load") -> None:
    """SORT by one key after the other and THREAD; all messages have to be there, in order where it is known."""
    for box in _mailboxes(load):
        for kind in box.kinds():
            for name, needs, command in SORTS:
                if needs not in box.caps:
                    continue
                box.ready(kind, is_new=name == SORTS[0][0])
                m, answer = box.metered(box.imap.cmd, command)
                _check_order(box, name, answer)
                box.emit(f"{name}-{box.label}-{kind}", "ms", m.wall * 1e3, box.count, m, [m.wall])


def _check_order(box: Mailbox, name: str, answer: bytes) -> None:
    begin = answer.find(b"* THREAD" if name.startswith("thread") else b"* SORT")
    line = answer[begin : answer.find(b"\r\n", begin)].translate(_NO_PARENTHESES)
    uids = [int(word) for word in line.split()[2:]]
    box.check(name, len(set(uids)), box.count)
    # messages are numbered by date, and so are UIDs
    if name in ("sort-date", "sort-rarrival") and uids != sorted(uids, reverse=name == "sort-rarrival"):
        box.check(f"{name}, messages in order", 0, box.count)


_NO_PARENTHESES = bytes.maketrans(b"()", b"  ")
