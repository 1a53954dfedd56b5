"""What a connection waits to hear: IDLE and NOTIFY, the hints that concern them, and telling what they are about.

A hint only says that there may be news; the connection then tells them as soon as no command runs.

Source: RFC 2177 §3, RFC 5465 §3 and §4.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pochta.proto.imap import encode
from pochta.store.tx import Hint

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection


class Listening:
    """Of one connection; `idle_tag` while it is in IDLE, `has_news` once a hint came that was not looked into."""

    __slots__ = ("_connection", "_heard", "has_news", "idle_tag")

    def __init__(self, connection: "ImapConnection") -> None:
        self._connection = connection
        self._heard: set[int] = set()  # accounts whose hints it waits for
        self.has_news = False
        self.idle_tag: bytes | None = None

    @property
    def waits(self) -> bool:
        """Whether the client is told what happens while no command runs."""
        return self.idle_tag is not None or self._connection.notify is not None

    async def begin_idle(self, tag: bytes) -> None:
        """Grant IDLE; what changed since the last command is told at once."""
        self.idle_tag = tag
        self._listen()
        self._connection.engine.start_idle()
        await self._connection.flush()
        await self.tell()

    def leave_idle(self) -> None:
        """IDLE is over, however it ended."""
        self.idle_tag = None
        self._listen()

    async def end_idle(self, tag: bytes) -> None:
        """The client has ended IDLE."""
        connection = self._connection
        self.leave_idle()
        await connection.may_still_read()
        await connection.sync(may_expunge=True)
        connection.send(encode.tagged(tag, b"OK", "IDLE terminated"))

    async def tell(self) -> None:
        """What has happened, to a client that waits for it."""
        connection = self._connection
        await connection.sync(may_expunge=self.idle_tag is not None)
        if connection.notify is not None:
            await connection.notify.tell(connection)
            self._listen()

    def note_caused(self, hints: Sequence[Hint]) -> None:
        """Remember what the client has done itself, of which NOTIFY does not tell."""
        if self._connection.notify is not None:
            self._connection.notify.note_own(hints)

    def stop(self) -> None:
        """Hear nothing more."""
        self._hear_of(set())

    def _listen(self) -> None:
        """Hear the hints of the accounts in which something may happen that the client is to be told."""
        connection = self._connection
        notify, selected = connection.notify, connection.selected
        wanted = set() if notify is None else set(notify.accounts)
        tells_selected = self.idle_tag is not None if notify is None else notify.tells_selected
        if tells_selected:
            # what happens in another's mailbox is told by the hints of its owner
            wanted |= {connection.account_id} if selected is None else {connection.account_id, selected.account_id}
        self._hear_of(wanted)

    def _hear_of(self, account_ids: set[int]) -> None:
        watching = self._connection.context.watching
        for account_id in self._heard - account_ids:
            watching[account_id].discard(self._connection)
            if not watching[account_id]:
                del watching[account_id]
        for account_id in account_ids - self._heard:
            watching[account_id].add(self._connection)
        self._heard = account_ids
