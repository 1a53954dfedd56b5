"""APPEND and MULTIAPPEND: messages stream in, all are published together. Source: RFC 3501 §6.3.11, RFC 3502."""

import asyncio
from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.delivery import local
from pochta.delivery.intake import Incoming
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.imap.events import AppendStart
from pochta.proto.imap.seqset import encode_ranges
from pochta.servers.imap.selected import split_flags
from pochta.store import mailboxes
from pochta.store.messages import NewMessage, NewPlacement
from pochta.store.sqlite import as_try_later

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapContext

MESSAGES_MAX: Final = 1000  # of one command: they enter the store in one step of the lane
TOTAL_MEMORY_BYTES: Final = 8 * 1024 * 1024  # of the messages of one command that wait in memory for its end


class Appending:
    """One APPEND command under way."""

    __slots__ = ("_account_id", "_context", "_held_bytes", "_incoming", "_items", "_path", "_placement", "tag")

    def __init__(self, context: "ImapContext", account_id: int, path: str) -> None:
        self._context = context
        self._account_id = account_id
        self._path = path
        self._incoming: Incoming | None = None
        self._placement = NewPlacement(0, (), 0, 0)
        self._items: list[tuple[NewMessage, NewPlacement]] = []
        self._held_bytes = 0
        self.tag = b""

    async def begin(self, event: AppendStart) -> None:
        """The next message is announced.

        Raises:
            Refusal: it cannot be taken. TryLater: the disk is nearly full.
        """
        self.tag = event.tag
        if not self._account_id:
            raise Refusal(RefusalCode.AUTH_REQUIRED, "Sign in first")
        if event.size_bytes > self._context.message_size_bytes:
            raise Refusal(RefusalCode.TOO_LARGE, f"A message has at most {self._context.message_size_bytes} bytes")
        if event.size_bytes == 0:
            raise Refusal(RefusalCode.CANNOT, "A message cannot be empty")  # RFC 3502 §6.3.11
        if len(self._items) >= MESSAGES_MAX:
            raise Refusal(RefusalCode.LIMIT, f"One command appends at most {MESSAGES_MAX} messages")
        local.check_room(self._context.store)
        if event.is_first:
            # RFC 3501 §6.3.11: a missing mailbox is told before the client has sent the message
            await self._context.store.read(self._account_id, mailboxes.find, self._account_id, self._path)
        bits, keywords = split_flags(event.flags)
        at, zone = event.internal_date or (int(clock.now_s()), 0)
        self._placement = NewPlacement(bits, keywords, at, zone)
        self._incoming = self._context.intake.open()

    def write(self, data: bytes) -> None:
        """The next bytes of the message.

        Raises:
            Refusal: CANNOT, a NUL (RFC 3501 §4.3.1). TryLater: the disk is full.
        """
        assert self._incoming is not None
        if b"\0" in data:
            raise Refusal(RefusalCode.CANNOT, "A message has no NUL; BINARY is not supported")
        try:
            self._incoming.write(data)
        except OSError as error:
            raise _as_lawful(error) from error

    async def end_message(self) -> None:
        """The message is complete.

        Raises:
            TryLater: the disk is full. Refusal: LIMIT, too much in one command.
        """
        assert self._incoming is not None
        size = self._incoming.size
        try:
            new = await self._incoming.finish(int(clock.now_s()))
        except OSError as error:
            raise _as_lawful(error) from error
        self._incoming = None
        self._held_bytes += size if new.blob.inline is not None else 0
        if self._held_bytes > TOTAL_MEMORY_BYTES:
            raise Refusal(RefusalCode.LIMIT, "One command appends at most 8 MiB of small messages")
        self._items.append((new, self._placement))

    async def commit(self) -> bytes:
        """Publish the messages; the response code APPENDUID (RFC 4315 §3).

        Raises:
            Refusal: NOT_FOUND, OVER_QUOTA, LIMIT. TryLater: the disk is full.
        """
        items, self._items = self._items, []  # from here on `discard` must not touch files that a row may name
        uid_validity, uids = await local.append(self._context.store, self._account_id, self._path, items)
        self._context.counters["messages_appended"] += len(uids)
        return b"APPENDUID %d %b" % (uid_validity, encode_ranges(uids))

    def discard(self) -> None:
        """Forget everything; files that are complete already are removed in a thread."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None
        files = [new.blob.file for new, _ in self._items if new.blob.file is not None]
        self._items.clear()
        if files:
            asyncio.get_running_loop().run_in_executor(None, self._context.store.blobs.delete_files, files)


def _as_lawful(error: OSError) -> Exception:
    meaning = as_try_later(error)
    return meaning if isinstance(meaning, TryLater) else error
