"""Turns of the event loop: long work lets others run every few milliseconds (INV-12)."""

import asyncio
from typing import Final

from pochta import clock

TURN_S: Final = 0.003  # a turn of the loop; with one more step behind it, still far below INV-12's 10 ms


class Pace:
    """Gives others their turn of the loop."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = clock.monotonic_s()

    @property
    def is_over(self) -> bool:
        """Whether the turn was long enough; 0.1 us."""
        return clock.monotonic_s() - self._since >= TURN_S

    async def turn(self) -> None:
        """Let others run if the turn is over."""
        if self.is_over:
            await asyncio.sleep(0)
            self._since = clock.monotonic_s()
