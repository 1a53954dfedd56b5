"""A message comes in: spooled, scanned once while it streams by, and made ready for the store.

Small messages stay in memory and are scanned whole; from `blobs.INLINE_MAX_BYTES` on (or sooner, when the worker's
spool memory is used up, INV-7) the bytes go straight into the file that the store will keep. A message that is all
structure would cost much memory while it comes in: it is read again when it is there, one such message at a time.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from pochta.mime.facts import FactsBuilder, MessageFacts, facts
from pochta.store.blobs import INLINE_MAX_BYTES, Blobs, BlobWriter, NewBlob
from pochta.store.messages import NewMessage, subject_hash

DERIVED_VERSION: Final = 2  # raise it when the scanner's values change: a background step then makes them anew
DELIMITERS_INLINE_MAX: Final = 500  # lines that may begin a part: 5 us each; mail has under 50
# A message with a header of 30 KiB and 100 parts holds a quarter of it; 100 connections at once hold 25 MB at the most
HELD_BY_SCANNER_MAX: Final = 256 * 1024
READ_BYTES: Final = 256 * 1024
REFS_MAX: Final = 20  # message_ref rows a message may add: its own id, the thread's first and the latest ones


class Intake:
    """The spool of one worker."""

    def __init__(self, blobs: Blobs, *, memory_limit_bytes: int) -> None:
        self._blobs = blobs
        self._memory_limit_bytes = memory_limit_bytes
        self.memory_bytes = 0
        self.scanning_heavy = asyncio.Lock()

    def open(self) -> "Incoming":
        """A new message; end it with `finish` or `discard`."""
        return Incoming(self, self._blobs)

    def take(self, count: int) -> bool:
        """Reserve spool memory."""
        if self.memory_bytes + count > self._memory_limit_bytes:
            return False
        self.memory_bytes += count
        return True

    def give_back(self, count: int) -> None:
        """Release reserved memory."""
        self.memory_bytes -= count


class Incoming:
    """One message being received."""

    __slots__ = ("_blobs", "_builder", "_held", "_intake", "_writer", "message_id", "received_count", "size")

    def __init__(self, intake: Intake, blobs: Blobs) -> None:
        self._intake = intake
        self._blobs = blobs
        self._held = bytearray()  # one piece: bytes that come one by one would take 30 times their size as objects
        self._writer: BlobWriter | None = None
        self._builder: FactsBuilder | None = None
        self.size = 0
        self.received_count = 0  # known after `finish`, as is:
        self.message_id = ""

    def write(self, data: bytes) -> None:
        """Take the next bytes of the message.

        Raises:
            OSError: the disk is full or failing; `discard` is still owed.
        """
        self.size += len(data)
        if self._writer is None:
            if len(self._held) + len(data) <= INLINE_MAX_BYTES and self._intake.take(len(data)):
                self._held += data
                return
            self._spill()
        assert self._writer is not None
        self._writer.write(data)
        self._scan(data)

    def _spill(self) -> None:
        self._writer = self._blobs.writer()
        self._builder = FactsBuilder()
        if self._held:
            held = bytes(self._held)
            self._writer.write(held)
            self._scan(held)
        self._forget_held()

    def _scan(self, data: bytes) -> None:
        if self._builder is not None:
            self._builder.feed(data)
            if self._builder.held_bytes > HELD_BY_SCANNER_MAX:
                self._builder = None

    def _forget_held(self) -> None:
        self._intake.give_back(len(self._held))
        self._held.clear()

    async def finish(self, received_at: int, *, trace: bytes = b"") -> NewMessage:
        """The message, its bytes durable where they stand in a file (INV-6).

        `trace`: finished header fields that stand in front of what was written, none of which facts are made of: what
        is known of a message only at its end (Authentication-Results).

        Raises:
            OSError: the disk is full or failing.
        """
        if self._writer is None:
            whole = trace + self._held
            self._forget_held()
            blob = NewBlob(len(whole), whole, None)
            # INV-12: 64 KiB of parts without content take 40 ms, anything else of that size 5 ms at the most
            is_slow = whole.count(b"\n--") > DELIMITERS_INLINE_MAX
            found = await self._facts_of_heavy(facts, whole) if is_slow else facts(whole)
        elif self._builder is not None:
            blob, found = await asyncio.to_thread(_finish_file, self._writer, self._builder, trace)
        else:
            blob = await asyncio.to_thread(_finish_blob, self._writer, trace)
            found = await self._facts_of_heavy(_facts_of_file, self._blobs, blob.file or "")
        self.received_count = found.received_count
        self.message_id = (found.message_id or b"").decode("ascii", "replace")
        return new_message(blob, found, received_at)

    async def _facts_of_heavy(self, scan: Callable[..., MessageFacts], *args: object) -> MessageFacts:
        async with self._intake.scanning_heavy:
            return await asyncio.to_thread(scan, *args)

    def discard(self) -> None:
        """Forget the message; harmless after `finish`."""
        self._forget_held()
        if self._writer is not None:
            self._writer.discard()


def _finish_blob(writer: BlobWriter, trace: bytes) -> NewBlob:
    """The durable file. Blocks."""
    if trace:
        writer.prepend(trace)
    return writer.finish()


def _finish_file(writer: BlobWriter, builder: FactsBuilder, trace: bytes) -> tuple[NewBlob, MessageFacts]:
    """The durable file and the facts, which take up to 50 ms (thousands of addresses or parts). Blocks."""
    blob, found = _finish_blob(writer, trace), builder.finish()
    return blob, found._replace(size=found.size + len(trace), header_size=found.header_size + len(trace))


def _facts_of_file(blobs: Blobs, file: str) -> MessageFacts:
    """The facts of a message in a file. Blocks."""
    builder = FactsBuilder()
    with open(blobs.open_file(file), "rb", buffering=0) as source:
        while chunk := source.read(READ_BYTES):
            builder.feed(chunk)
    return builder.finish()


def new_message(blob: NewBlob, found: MessageFacts, received_at: int) -> NewMessage:
    """What the store keeps of a message whose facts are `found`."""
    return NewMessage(
        blob=blob,
        header_size=found.header_size,
        received_at=received_at,
        sent_at=found.sent_at,
        sent_day=found.sent_day,
        ref_hashes=_ref_hashes(found.message_id, found.references),
        subject_hash=subject_hash(found.base_subject),
        base_subject=_text(found.base_subject),
        from_key=_text(found.from_key),
        to_key=_text(found.to_key),
        cc_key=_text(found.cc_key),
        preview=_text(found.preview),
        envelope=found.envelope,
        body_structure=found.body_structure,
        header_core=found.header_core,
        derived_version=DERIVED_VERSION,
        refs=found.ancestry,
    )


def _ref_hashes(message_id: bytes | None, references: Sequence[bytes]) -> tuple[int, ...]:
    ids = [*([message_id] if message_id else []), *references[:1], *references[1:][-(REFS_MAX - 2) :]]
    return tuple(dict.fromkeys(_hash(one) for one in ids))


def _hash(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big", signed=True)


def _text(value: str) -> str:
    """Text that every backend takes: PostgreSQL has no NUL, no database a lone surrogate."""
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
