"""How far a long command has come, told now and then. Source: RFC 9585 §4."""

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from pochta import clock
from pochta.proto.imap import encode

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

PERIOD_S: Final = 10.0  # RFC 9585 §4: every 10 to 15 s
LOOK_S: Final = 0.01  # at least, between two looks at work that tells nothing itself

T = TypeVar("T")


class Progress:
    """Of the command under way on one connection."""

    __slots__ = ("_connection", "_due_s", "_tag")

    def __init__(self, connection: "ImapConnection") -> None:
        self._connection = connection
        self._tag = b""
        self._due_s = 0.0

    def begin(self, tag: bytes) -> None:
        """A command begins."""
        self._tag = tag
        self._due_s = clock.monotonic_s() + PERIOD_S

    async def during(self, work: "asyncio.Future[T]", goal: int) -> T:
        """What `work` gives, which does all of its `goal` items at once; the client hears that it goes on."""
        try:
            while not (await asyncio.wait([work], timeout=max(LOOK_S, self._due_s - clock.monotonic_s())))[0]:
                await self.tell(0, goal)
        except asyncio.CancelledError:
            work.cancel()
            raise
        return work.result()

    async def tell(self, done: int, goal: int | None = None) -> None:
        """Tell, if it is time, that `done` items of `goal` are done; for loops, between two responses. 0.1 us.

        `goal` is the same each time, None where it is not known; `done` rises. A slow peer is waited for.
        """
        now = clock.monotonic_s()
        if now < self._due_s:
            return
        if goal is not None and done >= goal:
            return  # RFC 9585 §4: the goal is above the progress
        self._due_s = now + PERIOD_S
        # RFC 9585 §4: a tag with "]" would end the code early
        tag = b"NIL" if b"]" in self._tag else encode.quoted(self._tag)
        wanted = b"NIL" if goal is None else b"%d" % goal
        self._connection.send(
            encode.untagged(b"OK", "Still working on it", code=b"INPROGRESS (%b %d %b)" % (tag, done, wanted))
        )
        await self._connection.flush()
