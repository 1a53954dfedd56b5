"""A small strict IMAP client on the loop of the test: every line that it does not know is a `Difference`."""

import asyncio
import re
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Self

from model.model import Difference, Flags, expanded, require

ANSWER_S: Final = 20.0  # a bound for a server that never answers

_LITERAL: Final = re.compile(rb"\{(\d+)\}\Z")
_NUMBERED: Final = re.compile(rb"\* (\d+) (EXISTS|RECENT|EXPUNGE)")
_FETCH: Final = re.compile(rb"\* ([1-9]\d*) (UID)?FETCH \(")
_VANISHED: Final = re.compile(rb"\* VANISHED (\(EARLIER\) )?([0-9:,]+)")
_ESEARCH: Final = re.compile(rb"\* ESEARCH \(TAG \"(t\d+)\"\)( UID)?((?: (?:MIN|MAX|COUNT|ALL|MODSEQ) [0-9:,]+)*)")
_ITEM: Final = re.compile(
    rb"(?:(UID|RFC822\.SIZE) ([1-9]\d*)|FLAGS \(([^()]*)\)|MODSEQ \(([1-9]\d*)\)"
    rb"|(BODY\[[^]]*\]) (?:\{(\d+)\}\r\n|\"([^\"]*)\"))"
)
_FLAG: Final = re.compile(r"\\?[A-Za-z$][A-Za-z0-9$]*")
_CONDITION: Final = re.compile(rb"(\*|t\d+) (OK|NO|BAD|BYE) (?:\[([A-Z0-9-]+)(?: ([^\]]+))?\] )?(\S.*)")
_LIST: Final = re.compile(rb"\* LIST \(([^()]*)\) \"/\" (?:\"([^\"]+)\"|([^\" ]+))")
_STATUS: Final = re.compile(rb"\* STATUS (?:\"([^\"]+)\"|([^\" ]+)) \(([A-Z]+ \d+(?: [A-Z]+ \d+)*)\)")
_SEARCH: Final = re.compile(rb"\* SEARCH((?: [1-9]\d*)*)(?: \(MODSEQ (\d+)\))?")
_ENABLED: Final = re.compile(rb"\* ENABLED((?: [A-Za-z0-9=-]+)*)")
_QUOTA: Final = re.compile(rb"\* QUOTA [^ ]+ \(([A-Z]+ \d+ \d+(?: [A-Z]+ \d+ \d+)*)\)")
_QUOTA_ROOT: Final = re.compile(rb"\* QUOTAROOT [^ ]+ [^ ]+")
_FLAGS: Final = re.compile(rb"\* FLAGS \(([^()]*)\)")


class Numbered(NamedTuple):
    """`* n EXISTS`, RECENT or EXPUNGE."""

    number: int
    kind: str


class Vanished(NamedTuple):
    """`* VANISHED`"""

    uids: tuple[int, ...]
    is_earlier: bool


class Fetched(NamedTuple):
    """`* n FETCH`; `flags` without \\Recent. Of `* n UIDFETCH`, `seq` is 0 and `uid` the number."""

    seq: int
    uid: int | None = None
    flags: Flags | None = None
    mod_seq: int | None = None
    size_bytes: int | None = None
    body: bytes | None = None
    is_recent: bool = False


class Condition(NamedTuple):
    """OK, NO, BAD or BYE, untagged (`tag` is `*`) or tagged."""

    tag: str
    status: str
    code: str
    argument: str


class Listed(NamedTuple):
    """`* LIST`"""

    path: str
    attributes: frozenset[str]


class Statused(NamedTuple):
    """`* STATUS`"""

    path: str
    values: dict[str, int]


class Found(NamedTuple):
    """`* SEARCH`"""

    numbers: tuple[int, ...]
    mod_seq: int | None


class Searched(NamedTuple):
    """`* ESEARCH`; `found` None where ALL was not told."""

    tag: str
    is_uid: bool
    values: dict[str, str]

    @property
    def found(self) -> Found:
        """As SEARCH would have told it."""
        told, mod_seq = self.values.get("ALL"), self.values.get("MODSEQ")
        return Found(tuple(expanded(told)) if told else (), int(mod_seq) if mod_seq else None)


class Quota(NamedTuple):
    """`* QUOTA`: (used, limit) by resource; of QUOTAROOT none."""

    limits: dict[str, tuple[int, int]]


class Offered(NamedTuple):
    """`* FLAGS`"""

    flags: Flags


class Enabled(NamedTuple):
    """`* ENABLED`"""

    names: tuple[str, ...]


Response = Numbered | Vanished | Fetched | Condition | Listed | Statused | Found | Searched | Offered | Enabled | Quota


class Answer(NamedTuple):
    """All that came up to the tagged line; `end` is BYE where the server closed instead."""

    lines: list[Response]
    end: Condition


def parse(line: bytes) -> Response:
    """The response that the whole line is.

    Raises:
        Difference: it is none that we know.
    """
    if match := _NUMBERED.fullmatch(line):
        return Numbered(int(match[1]), match[2].decode())
    if match := _FETCH.match(line):
        return _fetched(int(match[1]), line, match.end(), is_by_uid=bool(match[2]))
    if match := _VANISHED.fullmatch(line):
        return Vanished(tuple(expanded(match[2].decode())), bool(match[1]))
    if match := _CONDITION.fullmatch(line):
        tag, status, code, argument = (part.decode() if part else "" for part in match.groups()[:4])
        return Condition(tag, status, code, argument)
    if match := _STATUS.fullmatch(line):
        words = match[3].decode().split()
        return Statused((match[1] or match[2]).decode(), dict(zip(words[::2], map(int, words[1::2]), strict=True)))
    if match := _LIST.fullmatch(line):
        return Listed((match[2] or match[3]).decode(), frozenset(match[1].decode().split()))
    if match := _SEARCH.fullmatch(line):
        return Found(tuple(map(int, match[1].split())), int(match[2]) if match[2] else None)
    if match := _ESEARCH.fullmatch(line):
        words = match[3].decode().split()
        return Searched(match[1].decode(), bool(match[2]), dict(zip(words[::2], words[1::2], strict=True)))
    if match := _QUOTA.fullmatch(line):
        words = match[1].decode().split()
        used, limits = map(int, words[1::3]), map(int, words[2::3])
        return Quota(dict(zip(words[::3], zip(used, limits, strict=True), strict=True)))
    if _QUOTA_ROOT.fullmatch(line):
        return Quota({})
    if match := _FLAGS.fullmatch(line):
        return Offered(_flags(match[1]))
    if match := _ENABLED.fullmatch(line):
        return Enabled(tuple(match[1].decode().split()))
    raise Difference("every line is a response we know", line)


def _flags(words: bytes) -> Flags:
    names = words.decode().split(" ") if words else []
    require(len(set(names)) == len(names) and all(map(_FLAG.fullmatch, names)), "flags are flags, each once", words)
    return frozenset(names) - {"\\Recent"}


def _fetched(number: int, line: bytes, at: int, *, is_by_uid: bool) -> Fetched:
    values: dict[str, int | Flags | bytes] = {}
    is_recent = False
    while True:
        match = _ITEM.match(line, at)
        if match is None:
            raise Difference("FETCH has items we know", line[at:])
        at = match.end()
        if match[1]:
            name = "uid" if match[1] == b"UID" else "size_bytes"
            value: int | Flags | bytes = int(match[2])
        elif match[3] is not None:
            name, value = "flags", _flags(match[3])
            is_recent = b"\\Recent" in match[3]
        elif match[4]:
            name, value = "mod_seq", int(match[4])
        elif match[6]:
            name, value = "body", line[at : at + int(match[6])]
            at += int(match[6])
        else:
            name, value = "body", match[7]
        require(name not in values, "FETCH has each item once", line)
        values[name] = value
        if line[at : at + 1] == b")" and at + 1 == len(line):
            if is_by_uid:
                require(values.setdefault("uid", number) == number, "UIDFETCH tells one uid", line)
                number = 0
            return Fetched(number, is_recent=is_recent, **values)  # type: ignore[arg-type]  # each name has its type
        require(line[at : at + 1] == b" ", "FETCH items stand apart", line)
        at += 1


class Connection(asyncio.Protocol):
    """One connection: commands go out, whole responses (with their literals) come in."""

    def __init__(self) -> None:
        self.lines: deque[bytes] = deque()
        self.is_lost = False
        self.log: deque[bytes] = deque(maxlen=200)  # what was said last, for a failure
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._tags = 0
        self._transport: asyncio.Transport | None = None
        self._deflating: zlib._Compress | None = None
        self._inflating: zlib._Decompress | None = None

    @classmethod
    async def open(cls, address: tuple[str, int]) -> Self:
        """A connection that has been greeted."""
        _, made = await asyncio.get_running_loop().create_connection(cls, *address[:2])
        greeting = parse(await made.line())
        require(isinstance(greeting, Condition) and greeting.status == "OK", "the greeting is OK", greeting)
        return made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._buffer += data if self._inflating is None else self._inflating.decompress(data)
        while (line := self._cut()) is not None:
            self.lines.append(line)
            self.log.append(b"S: " + line)
        if self.lines:
            self._wake()

    def _cut(self) -> bytes | None:
        at = 0
        while (end := self._buffer.find(b"\r\n", at)) >= 0:
            match = _LITERAL.search(self._buffer, at, end)
            if match is None:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 2]
                return line
            at = end + 2 + int(match[1])
        return None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def news(self, timeout_s: float) -> bool:
        """Whether a line is there within the time; False also when the connection is lost."""
        if self.lines or self.is_lost:
            return bool(self.lines)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._waiter, timeout_s)
        except TimeoutError:
            return False
        return bool(self.lines)

    async def line(self) -> bytes:
        """The next line."""
        if not await self.news(ANSWER_S):
            raise Difference("the server answers", "connection lost" if self.is_lost else "nothing came")
        return self.lines.popleft()

    def send(self, data: bytes) -> None:
        """Send as it is."""
        self.log.append(b"C: " + data.rstrip())
        assert self._transport is not None
        if self._deflating is not None:
            data = self._deflating.compress(data) + self._deflating.flush(zlib.Z_SYNC_FLUSH)
        self._transport.write(data)

    async def compress(self) -> None:
        """COMPRESS DEFLATE, and whatever follows compressed."""
        await self.ok(b"COMPRESS DEFLATE")
        self._deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        self._inflating = zlib.decompressobj(-zlib.MAX_WBITS)

    def begin(self, command: bytes) -> str:
        """Send a command; its tag."""
        self._tags += 1
        self.send(b"t%d %b\r\n" % (self._tags, command))
        return f"t{self._tags}"

    async def end(self, tag: str) -> Answer:
        """What came up to the tagged line, or up to the close behind a BYE."""
        lines: list[Response] = []
        while self.lines or await self.news(ANSWER_S):
            response = parse(self.lines.popleft())
            if isinstance(response, Condition) and response.tag != "*":
                require(response.tag == tag, "the answer has the command's tag", response)
                return Answer(lines, response)
            lines.append(response)
        last = lines[-1] if lines else None
        if self.is_lost and isinstance(last, Condition) and last.status == "BYE":
            return Answer(lines, last)
        raise Difference("the server answers", (self.is_lost, lines[-3:]))

    async def command(self, command: bytes) -> Answer:
        """The answer to a command."""
        return await self.end(self.begin(command))

    async def ok(self, command: bytes) -> Sequence[Response]:
        """The untagged lines of a command that must succeed."""
        answer = await self.command(command)
        require(answer.end.status == "OK", "this command succeeds", (command, answer.end))
        return answer.lines

    @property
    def port(self) -> int:
        """The client's end."""
        assert self._transport is not None
        number: int = self._transport.get_extra_info("sockname")[1]
        return number

    async def end_of_it(self) -> None:
        """Wait until the connection is lost; what has come stays in `lines`."""
        while not self.is_lost:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait_for(self._waiter, ANSWER_S)

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
