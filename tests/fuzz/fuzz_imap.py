"""Coverage-guided fuzzing of IMAP: `pip install atheris`, then `python tests/fuzz/fuzz_imap.py [FOLDER...] -runs=N`.

`consume` gives the octets to the engine in several cuts, to the line buffer and to the views, and holds the results
against each other. It is the same check that the property tests make (tests/proto/imap/test_imap_properties.py).
"""

import sys
from array import array
from collections.abc import Iterable
from itertools import pairwise

from pochta.errors import LocalProtocolError, RemoteProtocolError
from pochta.proto import sasl
from pochta.proto.buffer import CRLF, LF, InputBuffer
from pochta.proto.imap import commands as c
from pochta.proto.imap import encode, server
from pochta.proto.imap.dates import DATE_TIME, encode_internal_date, parse_date_time
from pochta.proto.imap.events import (
    AppendChunk,
    AppendDone,
    AppendMessageEnd,
    AppendStart,
    AuthResponse,
    BadCommand,
    CommandEvent,
    Event,
    Fatal,
    IdleDone,
)
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.mutf7 import decode_mutf7
from pochta.proto.imap.seqset import MAX_NUMBER, STAR, SeqSet, encode_ranges, parse_seq_set
from pochta.proto.imap.server import ImapServer
from pochta.proto.imap.view import CHUNK_MESSAGES, Snapshot

REFUSED = "refused"  # a mailbox that takes no message
LATE = "late"  # one that refuses when the first octets are there
LAST = "last"  # one that refuses between two messages
LINE_BYTES = 24  # of the line buffer under test


class Driver:
    """Answers an engine as a server would; keeps the events, chunks joined, and all that was sent."""

    def __init__(self, *, is_authenticated: bool, utf8_accept: bool = False) -> None:
        self.engine = ImapServer(utf8_accept=utf8_accept)
        self.engine.is_authenticated = is_authenticated
        self.events: list[Event] = []
        self.sent = b""
        self.complaints: list[str] = []
        self._login: sasl.LoginExchange | None = None
        self._mailbox = ""

    def feed(self, pieces: Iterable[bytes]) -> "Driver":
        for piece in pieces:
            self.engine.receive_data(piece)
            while (event := self.engine.next_event()) is not None:
                self.sent += self.engine.data_to_send()
                self._take(event)
            self.sent += self.engine.data_to_send()
        return self

    def _take(self, event: Event) -> None:
        if isinstance(event, AppendChunk) and self.events and isinstance(self.events[-1], AppendChunk):
            event = AppendChunk(self.events.pop().data + event.data)  # type: ignore[union-attr]
        if isinstance(event, AppendChunk) and self._mailbox == LATE:
            event = AppendChunk(b"")  # how much had come is a matter of the cut
        self.events.append(event)
        if isinstance(event, AppendStart):
            self._mailbox = event.mailbox
            if event.mailbox == REFUSED or not event.size_bytes:
                self.engine.refuse_append()
            else:
                self.engine.accept_append()
        elif isinstance(event, AppendChunk) and self._mailbox == LATE:
            self.engine.refuse_append()
            self._mailbox = ""
        elif isinstance(event, AppendMessageEnd) and self._mailbox == LAST:
            self.engine.refuse_append()
        elif isinstance(event, AuthResponse):
            self._respond(event.data)
        elif isinstance(event, CommandEvent):
            self._begin(event.command)

    def _begin(self, command: c.Command) -> None:
        if isinstance(command, c.Idle):
            self.engine.start_idle()
        elif isinstance(command, c.Authenticate) and command.mechanism in ("PLAIN", "LOGIN"):
            self._login = sasl.LoginExchange() if command.mechanism == "LOGIN" else None
            if command.initial is None:
                self.engine.challenge(b"" if self._login is None else sasl.LOGIN_USERNAME)
            else:
                self._respond(command.initial)

    def _respond(self, response: bytes | None) -> None:
        if response is None:
            return
        try:
            if self._login is None:
                credentials = sasl.decode_plain(response)
                assert credentials.authcid
            else:
                self._login.respond(response)
                if self._login.challenge is not None:
                    self.engine.challenge(self._login.challenge)
                else:
                    assert self._login.credentials is not None
                    must_fail(self._login.respond, response)
        except RemoteProtocolError as error:
            self.complaints.append(str(error))


def must_fail(call: object, *args: object) -> None:
    """The call is refused as a bug of the driver."""
    try:
        call(*args)  # type: ignore[operator]
    except LocalProtocolError:
        return
    raise AssertionError(f"{call} was not refused")


def consume(data: bytes, sizes: tuple[int, ...] = (1, 7, 64)) -> list[Event]:
    """The events of any octets; an AssertionError where two ways of reading them disagree or a promise is broken.

    `sizes`: of the pieces in which the octets are fed again.
    """
    found = consume_stream(data, sizes)
    consume_lines(data, sizes)
    consume_views(data)
    return found


def consume_stream(data: bytes, sizes: tuple[int, ...]) -> list[Event]:
    """As `consume`, of the engine alone."""
    found: list[Event] = []
    for is_authenticated in (True, False):
        # the first octet chooses whether the client has asked for UTF-8
        drive = {"is_authenticated": is_authenticated, "utf8_accept": data[:1] == b"U"}
        whole = Driver(**drive).feed([data])
        for size in sizes:
            again = Driver(**drive).feed(data[at : at + size] for at in range(0, len(data), size))
            assert again.events == whole.events, size
            assert again.sent == whole.sent, size
        check_events(whole)
        found = found or whole.events
    return found


def check_events(driver: Driver) -> None:
    """What holds of every conversation."""
    assert all(text.isascii() for text in driver.complaints)
    engine = driver.engine
    maximum = server.MAX_COMMAND if engine.is_authenticated else server.MAX_COMMAND_BEFORE_SIGN_IN
    assert engine.buffered_bytes <= maximum
    assert all(line.startswith(b"+ ") for line in driver.sent.split(b"\r\n")[:-1])
    for number, event in enumerate(driver.events):
        if isinstance(event, Fatal):
            assert number == len(driver.events) - 1
            engine.receive_data(b"a NOOP\r\n")
            assert engine.next_event() is None
        elif isinstance(event, BadCommand):
            assert event.text.isascii()
            answer = encode.tagged(event.tag or b"*", b"BAD", event.text)
            assert answer.count(b"\n") == answer.count(b"\r") == 1
        elif isinstance(event, CommandEvent):
            check_command(event.command)
        elif isinstance(event, AppendStart):
            check_append(event)
        else:
            assert isinstance(event, AppendChunk | AppendMessageEnd | AppendDone | AuthResponse | IdleDone)
    if engine.buffered_bytes == 0 and not driver.events:
        must_fail(engine.accept_append)
        must_fail(engine.refuse_append)


def check_append(event: AppendStart) -> None:
    """A date that was read is read again from what we write of it; so is the mailbox."""
    check_mailbox(event.mailbox)
    if event.internal_date is not None:
        match = DATE_TIME.fullmatch(encode_internal_date(*event.internal_date))
        assert match is not None
        day = event.internal_date.epoch_s + event.internal_date.zone_minutes * 60
        if -62_135_596_800 <= day < 253_402_300_800:  # the years that dates have
            assert parse_date_time(match) == event.internal_date


def check_mailbox(name: str) -> None:
    """A name that was read is read again from what we write of it."""
    # UTF-8 has no spelling for NUL, which no stored name holds
    for utf8_accept in (False,) if "\0" in name else (False, True):
        wire = encode.mailbox_name(name, utf8_accept=utf8_accept)
        lexer = Lexer(wire, 0, len(wire), utf8_accept=utf8_accept)
        assert lexer.mailbox() == name
        lexer.finish()
        assert encode.list_response(name, ["\\Noselect"], utf8_accept=utf8_accept).endswith(wire + b"\r\n")
    assert decode_mutf7(encode.mailbox_name(name).strip(b'"')) or name == "" or b'"' in encode.mailbox_name(name)


def check_command(command: c.Command) -> None:
    """What a command holds can be written again."""
    for name in ("mailbox", "source", "target"):
        if hasattr(command, name):
            check_mailbox(getattr(command, name))
    if hasattr(command, "seq_set"):
        check_set(command.seq_set)
    if isinstance(command, c.Status):
        line = encode.status_response(command.mailbox, dict.fromkeys(command.items, 1))
        assert line.count(b"\n") == 1 or b"{" in line
    elif isinstance(command, c.List):
        shown = encode.list_response("x", [], delimiter=None if command.is_extended else b"/", kind=b"LSUB")
        assert shown.endswith(b" x\r\n")
    elif isinstance(command, c.Id):
        for key, value in command.parameters:
            text = encode.nstring(None if value is None else value.encode())
            lexer = Lexer(text, 0, len(text))
            assert lexer.nstring() == (None if value is None else value.encode())
            assert encode.string(key.encode())
    elif isinstance(command, c.Login):
        wire = encode.astring(command.username.encode()) + b" "
        assert Lexer(wire, 0, len(wire)).astring() == command.username.encode()
        assert encode.text(command.username).isascii()


def check_set(seq_set: SeqSet) -> None:
    """A set means what it says."""
    assert parse_seq_set(seq_set.encode()) == seq_set
    assert seq_set.has_star() == (b"*" in seq_set.encode())
    assert seq_set.largest() <= MAX_NUMBER
    for maximum in (0, 1, 12, MAX_NUMBER):
        ranges = seq_set.normalised(maximum)
        assert all(first <= last <= maximum for first, last in ranges)
        assert all(one[1] + 1 < two[0] for one, two in pairwise(ranges))
        if maximum == 12:
            numbers = [number for first, last in ranges for number in range(first, last + 1)]
            bounds = [((a or maximum), (b or maximum)) for a, b in seq_set.ranges]
            assert numbers == [n for n in range(1, 13) if any(min(a, b) <= n <= max(a, b) for a, b in bounds)]
            assert encode_ranges(iter(numbers)).replace(b"*", b"") == encode_ranges(numbers)
    assert STAR == 0


def consume_lines(data: bytes, sizes: tuple[int, ...]) -> None:
    """The line buffer: the same lines in every cut, nothing lost and nothing twice."""
    for resync in (LF, CRLF):
        whole = lines_of([data], resync)
        for size in sizes:
            assert lines_of([data[at : at + size] for at in range(0, len(data), size)], resync) == whole
    buffer = InputBuffer()
    for at in range(0, len(data), 5):
        buffer.feed(data[at : at + 5])
        if data[at] & 1:
            window, start = buffer.window()
            count = min(3, len(buffer))
            expected = bytes(window[start : start + count])
            del window
            assert buffer.take(3) in (expected, b"")  # nothing while a delimiter is looked for
        elif data[at] & 2:
            buffer.drop(min(2, len(buffer)))
        elif data[at] & 4:
            buffer.skip_through(CRLF)
            buffer.window()
        elif data[at] & 8:
            buffer.clear()
            assert len(buffer) == 0


def lines_of(pieces: list[bytes], resync: bytes) -> list[bytes | None]:
    """Lines and, as None, lines that were too long; then what is left."""
    buffer = InputBuffer(resync=resync)
    found: list[bytes | None] = []
    for piece in pieces:
        buffer.feed(piece)
        while True:
            try:
                line = buffer.take_line(LINE_BYTES)
            except RemoteProtocolError:
                found.append(None)
                continue
            if line is None:
                break
            assert line.endswith(LF)
            assert len(line) <= LINE_BYTES
            found.append(line)
    found.append(buffer.take(LINE_BYTES))
    return found


def consume_views(data: bytes) -> None:
    """Snapshots of a mailbox against a dictionary: each octet is a change."""
    truth = dict.fromkeys(range(1, 20 + 30 * (len(data) % 40)), 0)
    view = Snapshot.of(array("I", truth), array("q", truth.values()), 1)
    for number, octet in enumerate(data[:20], 2):
        old, known = view, dict(truth)
        first = 1 + octet * 9 % (max(truth, default=1) + 2)
        last = first + octet % 7 * (1 + 99 * (octet & 1))
        ranges = [(first, last)] if octet & 2 else [(first, first), (last + 1, last + 2)]
        if octet & 4:
            ranges = []
        named = [uid for low, high in ranges for uid in range(low, high + 1)]
        rows = [] if octet & 8 else [(uid, octet) for uid in named if octet & 16 or uid in truth]
        view = view.refreshed(ranges, rows, number)
        truth = {uid: flags for uid, flags in truth.items() if uid not in named} | dict(rows)
        truth = dict(sorted(truth.items()))
        check_view(view, truth)
        check_difference(old, view, known, truth)
    if data[:1] >= b"\x80":
        ranges = [(1, 3), (5, 9)]
        changed = view.with_flags(ranges, ~1, 4)
        truth = {uid: flags & ~1 | 4 if uid < 4 or 4 < uid < 10 else flags for uid, flags in truth.items()}
        check_view(changed, truth)


def check_view(view: Snapshot, truth: dict[int, int]) -> None:
    """The view holds what the dictionary holds, however it is asked."""
    uids = list(truth)
    assert view.count == len(truth)
    assert view.last_uid == (uids[-1] if uids else 0)
    assert all(0 < len(chunk.uids) <= CHUNK_MESSAGES for chunk in view.chunks)
    assert [uid for part in view.slices() for uid in part.uids] == uids
    middle = [(max(1, view.count // 3), max(1, view.count // 2))] if uids else []
    by_seq = [(part.seq, list(part.uids), list(part.flags)) for part in view.by_seq(middle)]
    assert [uid for _, part, _ in by_seq for uid in part] == [uids[n - 1] for a, b in middle for n in range(a, b + 1)]
    asked = [(3, 40), (300, 5000)]
    found = [(uid, bits) for part in view.by_uid(asked) for uid, bits in zip(part.uids, part.flags, strict=True)]
    assert found == [(uid, bits) for uid, bits in truth.items() if 3 <= uid <= 40 or 300 <= uid <= 5000]
    for uid in (0, 1, 17, view.last_uid, view.last_uid + 1):
        assert view.seq_of(uid) == (uids.index(uid) + 1 if uid in truth else 0)


def check_difference(old: Snapshot, new: Snapshot, known: dict[int, int], truth: dict[int, int]) -> None:
    """What is told leads from the one to the other."""
    removed, changed, added = old.difference(new)
    uids = list(known)
    for seq in removed:
        del uids[seq - 1]
    flags = {uid: known[uid] for uid in uids} | dict(added) | dict(pair for block in changed for pair in block)
    assert flags == truth
    assert old.unshared(new) <= new.count


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, consume)
    atheris.Fuzz()
