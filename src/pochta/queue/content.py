"""The bytes of a message on its way out: as they are kept, without our Return-Path, converted and signed as needed.

A message that stands in the database is in memory anyway (64 KiB at the most); a larger one streams from its file. What
must be converted is held whole while that is done, one such message at a time; what comes of it is held until it is
sent, and all of it together has CONVERTED_MAX_BYTES, small ones apart, which wait for no slow server.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pochta import clock
from pochta.accounts import signing
from pochta.errors import Corrupt
from pochta.mime import convert
from pochta.mime.address import parse_addresses
from pochta.mime.convert import Form, FormScanner
from pochta.mime.header import unfold
from pochta.policy.dkim.canon import BodyHashes, Canonicalization
from pochta.policy.dkim.keys import SigningKey
from pochta.policy.dkim.sign import sign
from pochta.proto.address import AddressError, to_a_labels
from pochta.queue import form
from pochta.queue.form import Refused, Step
from pochta.store import dkim_keys, outbox
from pochta.store.blobs import StoredBlob
from pochta.store.outbox import Outgoing
from pochta.store.store import Store

HEADER_MAX_BYTES: Final = 1024 * 1024  # read whole, to be signed; intake takes no message whose header is larger
KEYS_KEPT_S: Final = 5.0  # which keys sign is asked again after; the records of keys that do not stay for days
DOMAINS_KEPT: Final = 1000
SIGNATURES_KEPT: Final = 256  # of messages that go to many destinations: 1 kB each
SIGNED_ORIGINS: Final = frozenset({"submission", "command", "report", "double_bounce"})

CONVERTED_MAX_BYTES: Final = 64 * 1024 * 1024  # being sent at once: one message of the largest size, or many usual ones
SMALL_BYTES: Final = 64 * 1024  # are not counted: with 100 connections and three times the size, 20 MiB
ROOM_WAIT_S: Final = 240.0  # RFC 5321 §4.5.3.2.7: the server at the other end of the open connection waits 300 s

FROM_FIELDS_MAX: Final = 100  # that are looked at for an author; RFC 5322 §3.6 allows one

# RFC 5322 §2.2, §4.5: a field's name begins its line; white space may stand before the colon.
_FROM: Final = re.compile(rb"^From[ \t]*+:", re.MULTILINE | re.IGNORECASE)
_NEXT_FIELD: Final = re.compile(rb"\n(?![ \t])")
# RFC 5321 §4.4: the final server's field. Ours is the first in the header, or follows what the checks have written.
_RETURN_PATH: Final = re.compile(rb"^Return-Path:[^\n]*+\n", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A message as it is kept: its header without Return-Path, where its body begins, what it is made of."""

    blob: StoredBlob
    header: bytes
    body_at: int
    form: Form


@dataclass(frozen=True, slots=True)
class Rendered:
    """A message as it is sent: `head`, then the rest of `source` from `start` on (None: nothing follows)."""

    head: bytes
    source: StoredBlob | None
    start: int
    form: Form

    @property
    def size(self) -> int:
        """Octets in all."""
        return len(self.head) + (self.source.size - self.start if self.source is not None else 0)


class NoRoomError(Exception):
    """There is no memory to convert a message in for now."""


class _Room:
    """Octets that are handed out up to a limit; one that is larger alone gets in when nothing else is there."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def take(self, size: int) -> None:
        """Wait until there is room."""
        while self._taken and self._taken + size > self._most:
            room = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            try:
                await room
            finally:
                if room in self._waiting:
                    self._waiting.remove(room)
        self._taken += size

    def grow(self, size: int) -> None:
        """What was taken needs more, or less."""
        self._taken += size

    def give_back(self, size: int) -> None:
        """There is room for others."""
        self._taken -= size
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)


class Contents:
    """Reads, converts and signs; shared by the deliverers of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._signatures: OrderedDict[int, bytes] = OrderedDict()
        self._keys: dict[str, tuple[float, list[tuple[str, str, SigningKey]]]] = {}  # with until when they hold
        self._converting = asyncio.Lock()
        self._room = _Room(CONVERTED_MAX_BYTES)

    async def load(self, message: Outgoing) -> Source:
        """The message as it is kept.

        Raises:
            Corrupt: its bytes are not there.
        """
        blob = await self._store.read(message.account_id, outbox.bytes_of, message.blob_id)
        if blob.inline is not None:
            return _source(blob, blob.inline[: message.header_size], convert.form_of(blob.inline), message.header_size)
        return await self._load_file(blob, message.header_size)

    async def _load_file(self, blob: StoredBlob, header_size: int) -> Source:
        scanner = FormScanner()
        header = bytearray()
        if header_size > HEADER_MAX_BYTES:
            raise Corrupt("header of message in blob", blob.id)
        async for chunk in self._store.blobs.open(blob, 0, blob.size):
            if len(header) < header_size:
                header += chunk[: header_size - len(header)]
            scanner.feed(chunk)
            await asyncio.sleep(0)
        return _source(blob, bytes(header), scanner.finish(), header_size)

    async def render(self, message: Outgoing, source: Source) -> Rendered:
        """The message unchanged, with our signatures where it is ours."""
        prefix = await self._signatures_of(message, source)
        if source.blob.inline is not None:
            return Rendered(prefix + source.header + source.blob.inline[source.body_at :], None, 0, source.form)
        return Rendered(prefix + source.header, source.blob, source.body_at, source.form)

    @asynccontextmanager
    async def converted(self, message: Outgoing, source: Source, step: Step) -> AsyncIterator[Rendered | Refused]:
        """The message converted, as long as it is being sent.

        Raises:
            NoRoomError: other large messages took all of the memory for ROOM_WAIT_S.
        """
        taken = source.blob.size if source.blob.size > SMALL_BYTES else 0
        if taken:
            try:
                async with asyncio.timeout(ROOM_WAIT_S):
                    await self._room.take(taken)
            except TimeoutError:
                raise NoRoomError from None
        try:
            async with self._converting:
                made = await self.convert(message, source, step)
            if taken and isinstance(made, Rendered):
                self._room.grow(made.size - taken)
                taken = made.size
            yield made
        finally:
            self._room.give_back(taken)

    async def convert(self, message: Outgoing, source: Source, step: Step) -> Rendered | Refused:
        """The message converted, then signed; `converted` bounds the memory that it takes."""
        parts = [source.header]
        async for chunk in self._store.blobs.open(source.blob, source.body_at, source.blob.size):
            parts.append(chunk)
            await asyncio.sleep(0)
        change = convert.to_7bit if step is Step.TO_7BIT else convert.to_8bit
        try:
            made, made_form = await asyncio.to_thread(_converted, change, parts)
        except convert.CannotConvert as error:
            return form.cannot_convert(error)
        end = made.find(b"\r\n\r\n") + 4
        header, rest = (made[:end], made[end:]) if end >= 4 else (made, b"")
        keys = await self._keys_for(message, header)
        prefix = await asyncio.to_thread(_sign, header, (rest,), keys) if keys else b""
        return Rendered(prefix + made, None, 0, made_form)

    async def _signatures_of(self, message: Outgoing, source: Source) -> bytes:
        """The signatures of an unchanged message, remembered for its other destinations."""
        known = self._signatures.get(message.id)
        if known is not None:
            return known
        keys = await self._keys_for(message, source.header)
        if not keys:
            return b""
        hashes = BodyHashes(Canonicalization.RELAXED)
        async for chunk in self._store.blobs.open(source.blob, source.body_at, source.blob.size):
            hashes.feed(chunk)
            await asyncio.sleep(0)  # a block takes up to 3 ms (INV-12)
        made = sign(source.header, hashes, keys, now_s=clock.now_s())
        self._signatures[message.id] = made
        while len(self._signatures) > SIGNATURES_KEPT:
            self._signatures.popitem(last=False)
        return made

    async def _keys_for(self, message: Outgoing, header: bytes) -> list[tuple[str, str, SigningKey]]:
        """The keys of the author's domain, when the message was written here."""
        if message.origin not in SIGNED_ORIGINS:
            return []
        domain = author_domain(header)
        if not domain:
            return []
        now = clock.now_s()
        until, keys = self._keys.get(domain, (0.0, []))
        if not now < until <= now + KEYS_KEPT_S:
            found = await self._store.read(0, dkim_keys.active, domain)
            keys = [(one.selector, domain, signing.loaded(one.private_key)) for one in found]
            if len(self._keys) >= DOMAINS_KEPT:
                self._keys.clear()
            self._keys[domain] = (now + KEYS_KEPT_S, keys)
        return keys

    def body(self, rendered: Rendered) -> bytes | AsyncIterator[bytes]:
        """The octets of a rendered message, whole where they are in memory."""
        return rendered.head if rendered.source is None else self._chunks(rendered)

    async def _chunks(self, rendered: Rendered) -> AsyncIterator[bytes]:
        """The octets in pieces.

        Raises:
            Corrupt: the file is shorter than it should be.
        """
        yield rendered.head
        if rendered.source is not None:
            async for chunk in self._store.blobs.open(rendered.source, rendered.start, rendered.source.size):
                yield chunk


def _source(blob: StoredBlob, header: bytes, form: Form, body_at: int) -> Source:
    return Source(blob, _RETURN_PATH.sub(b"", header, count=1), body_at, form)


def _converted(change: Callable[[bytes], bytes], parts: Sequence[bytes]) -> tuple[bytes, Form]:
    """The message converted, and what it is then. Blocks."""
    made = change(b"".join(parts))
    return made, convert.form_of(made)


def _sign(header: bytes, body: Sequence[bytes], keys: list[tuple[str, str, SigningKey]]) -> bytes:
    return sign(header, body, keys, now_s=clock.now_s())


def author_domain(header: bytes) -> str:
    """The domain of the first author in A-labels; `""` without one."""
    for found in islice(_FROM.finditer(header), FROM_FIELDS_MAX):
        end = _NEXT_FIELD.search(header, found.end())
        value = header[found.end() : end.start() if end is not None else len(header)]
        for one in parse_addresses(unfold(value)):
            if one.host is not None:
                try:
                    return to_a_labels(one.host.decode("utf-8"))
                except (AddressError, UnicodeDecodeError):
                    return ""
    return ""
