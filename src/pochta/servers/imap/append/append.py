"""APPEND, MULTIAPPEND and REPLACE: messages stream in, all are published together.

A message comes as one literal or, with CATENATE, in parts; both end in the same spool. What a literal8 brought and a
plain literal could not is put into a transfer encoding at the message's end (`without_nul`). Whatever is refused or cut
off leaves no file behind.

DEVIATES RFC 6855 §4: an octet beyond ASCII in a header is taken also from a client that has not enabled UTF8=ACCEPT.
Such headers are older than that extension, and come in by SMTP. Programs that copy mail between servers (imapsync,
mbsync, OfflineIMAP), none of which enables it, would lose those messages, and so would every mail program that moves
one from another account. The data item UTF8 itself is for those who have enabled it. What is given to clients that
have not: docs/decisions/0011-headers-in-utf-8.md.

Source: RFC 3501 §6.3.11, RFC 3502, RFC 3516 §4.4, RFC 4469, RFC 6855 §4, RFC 8508.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pochta import clock
from pochta.delivery import local
from pochta.delivery.intake import Incoming
from pochta.errors import Refusal, RefusalCode, RemoteProtocolError, TryLater
from pochta.proto.imap import encode
from pochta.proto.imap.append import AppendData
from pochta.proto.imap.events import (
    AppendChunk,
    AppendDone,
    AppendMessageEnd,
    AppendPart,
    AppendStart,
    AppendUrl,
)
from pochta.proto.imap.seqset import encode_ranges
from pochta.servers.imap import condstore, targets
from pochta.servers.imap.append import replace, without_nul
from pochta.servers.imap.append.catenate import Urls
from pochta.servers.imap.mailboxes import listing
from pochta.servers.imap.message_limit import TooManyMessages
from pochta.servers.imap.selected import split_flags
from pochta.servers.pace import Pace
from pochta.store.access import Opened
from pochta.store.messages import Appended, NewMessage, NewPlacement
from pochta.store.sqlite import as_try_later

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

MESSAGES_MAX: Final = 1000  # of one command: they enter the store in one step of the lane
TOTAL_MEMORY_BYTES: Final = 8 * 1024 * 1024  # of the messages of one command that wait in memory for its end
PARTS_MAX: Final = 1000  # of CATENATE, in one command: a message taken apart and put together again has under 100

AppendEvent = AppendStart | AppendPart | AppendUrl | AppendChunk | AppendMessageEnd | AppendDone


async def handle(connection: "ImapConnection", appending: "Appending | None", event: AppendEvent) -> "Appending | None":
    """Take the next event of the command; the command under way, None when it is over and answered."""
    if isinstance(event, AppendStart) and event.is_first:
        appending = connection.appending = Appending(connection, event)
    assert appending is not None
    try:
        if isinstance(event, AppendChunk):
            appending.write(event.data)
        elif isinstance(event, AppendMessageEnd):
            await appending.end_message()
        elif isinstance(event, AppendUrl):
            await appending.add_url(event.url)
        elif isinstance(event, AppendDone):
            await appending.publish()
            return None
        else:
            if isinstance(event, AppendStart):
                await appending.begin(event)
            else:
                appending.begin_part(event)
            connection.engine.accept_append()
            await connection.flush()
    except (Refusal, TryLater, RemoteProtocolError) as error:
        appending.discard()
        if not isinstance(event, AppendDone):
            connection.engine.refuse_append()
        _answer_error(connection, appending.tag, error)
        return None
    return appending


def _answer_error(connection: "ImapConnection", tag: bytes, error: Refusal | TryLater | RemoteProtocolError) -> None:
    if isinstance(error, NeedsUid):
        connection.send(encode.tagged(tag, b"BAD", str(error), code=b"UIDREQUIRED"))
    elif isinstance(error, RemoteProtocolError):
        connection.send(encode.tagged(tag, b"BAD", str(error)))
    else:
        connection.answer_append_error(tag, error)


class NeedsUid(RemoteProtocolError):
    """A message was named by its number where UIDs alone may be used (RFC 9586 §3)."""


class Appending:
    """One APPEND or REPLACE under way."""

    __slots__ = (
        "_connection",
        "_data",
        "_held_bytes",
        "_incoming",
        "_items",
        "_needs_encoding",
        "_parts",
        "_path",
        "_placement",
        "_replaced",
        "_replaced_uid",
        "_spooled",
        "_target",
        "_urls",
        "tag",
    )

    def __init__(self, connection: "ImapConnection", event: AppendStart) -> None:
        self.tag = event.tag
        self._connection = connection
        self._path = event.mailbox
        self._target: Opened | None = None  # as it was at the beginning
        self._replaced = event.replaced
        self._replaced_uid = 0
        self._incoming: Incoming | None = None
        self._spooled: list[NewMessage] = []  # complete, and not to be kept
        self._placement = NewPlacement(0, (), 0, 0)
        self._data = AppendData.LITERAL  # of the literal that comes
        self._needs_encoding = False  # the message holds a NUL
        self._parts = 0
        self._urls = Urls(connection)
        self._items: list[tuple[NewMessage, NewPlacement]] = []
        self._held_bytes = 0

    async def begin(self, event: AppendStart) -> None:
        """The next message is announced.

        Raises:
            Refusal: it cannot be taken. TryLater: the disk is nearly full. RemoteProtocolError: see `replace`.
        """
        connection = self._connection
        if not connection.account_id:
            raise Refusal(RefusalCode.AUTH_REQUIRED, "Sign in first")
        self._need_room(event.size_bytes)
        if event.size_bytes == 0 and event.data is not AppendData.CATENATE:
            raise Refusal(RefusalCode.CANNOT, "A message cannot be empty")  # RFC 3502 §6.3.11
        limit = connection.context.message_limit or MESSAGES_MAX
        if len(self._items) >= min(limit, MESSAGES_MAX):
            if limit < MESSAGES_MAX:
                raise TooManyMessages(limit)
            raise Refusal(RefusalCode.LIMIT, f"One command appends at most {MESSAGES_MAX} messages")
        self._need_enabled(event.data)
        local.check_room(connection.context.store)
        if event.is_first:
            await self._find_target()
        bits, keywords = split_flags(event.flags)
        at, zone = event.internal_date or (int(clock.now_s()), 0)
        self._placement = NewPlacement(bits, keywords, at, zone)
        self._data = event.data
        self._needs_encoding = False
        self._incoming = connection.context.intake.open()

    async def _find_target(self) -> None:
        if self._replaced is not None:
            if self._connection.modes.uidonly and not self._replaced.is_uid:
                raise NeedsUid("Only UIDs name messages here")
            self._replaced_uid = await replace.uid_of(self._connection, self._replaced)
        # RFC 3501 §6.3.11: a missing mailbox is told before the client has sent the message
        self._target = await targets.appendable(self._connection, self._path)

    def _need_room(self, more_bytes: int) -> None:
        limit = self._connection.context.message_size_bytes
        if (0 if self._incoming is None else self._incoming.size) + more_bytes > limit:
            raise Refusal(RefusalCode.TOO_LARGE, f"A message has at most {limit} bytes")

    def _need_enabled(self, data: AppendData) -> None:
        if data is AppendData.UTF8 and not self._connection.modes.utf8:
            # RFC 6855 §4: NO to who has not enabled it
            raise Refusal(RefusalCode.CANNOT, "ENABLE UTF8=ACCEPT comes first")

    def begin_part(self, event: AppendPart) -> None:
        """The next part of the message is announced.

        Raises:
            Refusal: it cannot be taken.
        """
        self._need_part(event.size_bytes)
        self._need_enabled(event.data)
        self._data = event.data

    def _need_part(self, more_bytes: int) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise Refusal(RefusalCode.LIMIT, f"One command has at most {PARTS_MAX} parts")
        self._need_room(more_bytes)

    async def add_url(self, url: bytes) -> None:
        """What the URL names is the next part.

        Raises:
            Refusal: BadUrl, or it cannot be taken. TryLater: the disk is full.
        """
        self._need_part(0)
        blob, found = await self._urls.find(url)
        self._need_room(found.size)
        pace = Pace()
        async for chunk in self._urls.chunks(blob, found):
            self._spool(chunk)
            await pace.turn()

    def write(self, data: bytes) -> None:
        """The next bytes of the message or part.

        Raises:
            Refusal: CANNOT, a NUL (RFC 3501 §4.3.1). TryLater: the disk is full.
        """
        if b"\0" in data:
            if self._data is AppendData.LITERAL:
                raise Refusal(RefusalCode.CANNOT, "A literal holds no NUL; a literal8 may")
            self._needs_encoding = True
        self._spool(data)

    def _spool(self, data: bytes) -> None:
        assert self._incoming is not None
        try:
            self._incoming.write(data)
        except OSError as error:
            raise _as_lawful(error) from error

    async def end_message(self) -> None:
        """The message is complete.

        Raises:
            TryLater: the disk is full. Refusal: LIMIT, too much in one command; CANNOT, a NUL where none can be.
        """
        assert self._incoming is not None
        if self._incoming.size == 0:
            raise Refusal(RefusalCode.CANNOT, "A message cannot be empty")
        new = await self._finish()
        if self._needs_encoding:
            self._spooled.append(new)
            new = await self._encoded(new)
        self._held_bytes += 0 if new.blob.inline is None else new.blob.size
        self._items.append((new, self._placement))
        if self._held_bytes > TOTAL_MEMORY_BYTES:
            raise Refusal(RefusalCode.LIMIT, "One command appends at most 8 MiB of small messages")

    async def _encoded(self, raw: NewMessage) -> NewMessage:
        """The message again, with what holds a NUL in base64."""
        self._incoming = self._connection.context.intake.open()
        pace = Pace()
        async for chunk in without_nul.encoded(self._connection.context.store, raw.blob):
            self._need_room(len(chunk))
            self._spool(chunk)
            await pace.turn()
        new = await self._finish()
        self._spooled.clear()
        await local.drop(self._connection.context.store, [raw])
        return new

    async def _finish(self) -> NewMessage:
        """The spooled message, made durable; where that is cut off, its file goes once it is there."""
        incoming = self._incoming
        assert incoming is not None
        finishing = asyncio.ensure_future(incoming.finish(int(clock.now_s())))
        try:
            new = await asyncio.shield(finishing)
        except asyncio.CancelledError:
            finishing.add_done_callback(_dropping(self._connection.context.store.blobs.delete_files))
            raise
        except OSError as error:
            raise _as_lawful(error) from error
        self._incoming = None
        return new

    async def publish(self) -> None:
        """Put all messages into the mailbox, and answer with their UIDs (RFC 4315 §3).

        Raises:
            Refusal: NOT_FOUND, NO_PERMISSION, OVER_QUOTA, LIMIT, EXPUNGED. TryLater: the disk is full.
        """
        connection = self._connection
        items, self._items = self._items, []  # from here on `discard` must not touch files that a row may name
        if self._replaced is None:
            appended = await local.append(connection.context.store, connection.account_id, self._path, items)
        else:
            appended = await replace.commit(connection, self._replaced_uid, self._path, items)
        connection.context.counters["messages_appended"] += len(appended.uids)
        code = _appenduid(appended)
        if self._target is not None:
            # RFC 9051 §6.3.12: the name that the mailbox has, where the client spells it otherwise
            connection.send(listing.spelling(connection, self._target, self._path))
        if self._replaced is None:
            await connection.sync(may_expunge=True)
            connection.send(encode.tagged(self.tag, b"OK", "APPEND completed", code=code))
            return
        # RFC 8508 §4.3: before the EXPUNGE
        connection.send(encode.untagged(b"OK", "Replacement message ready", code=code))
        await connection.sync(may_expunge=True, with_uid=self._replaced.is_uid)
        # RFC 7162 §3.2.9: as after UID EXPUNGE
        selected = connection.selected
        highest = condstore.highest(selected) if selected is not None and connection.modes.condstore else b""
        connection.send(encode.tagged(self.tag, b"OK", "REPLACE completed", code=highest))

    def discard(self) -> None:
        """Forget everything; files that are complete already are removed in a thread."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None
        complete = [*self._spooled, *(new for new, _ in self._items)]
        files = [new.blob.file for new in complete if new.blob.file is not None]
        self._spooled.clear()
        self._items.clear()
        if files:
            asyncio.get_running_loop().run_in_executor(None, self._connection.context.store.blobs.delete_files, files)


def _appenduid(appended: Appended) -> bytes:
    return b"APPENDUID %d %b" % (appended.uid_validity, encode_ranges(appended.uids))


def _dropping(delete_files: Callable[[list[str]], None]) -> "Callable[[asyncio.Future[NewMessage]], None]":
    """What removes the file of a message that nobody waits for any more."""

    def drop(finished: "asyncio.Future[NewMessage]") -> None:
        if finished.cancelled() or finished.exception() is not None:
            return
        file = finished.result().blob.file
        if file is not None:
            finished.get_loop().run_in_executor(None, delete_files, [file])

    return drop


def _as_lawful(error: OSError) -> Exception:
    meaning = as_try_later(error)
    return meaning if isinstance(meaning, TryLater) else error
