"""Feeding in a process of its own, for servers: as a thread of a busy worker it would get hardly any turn.

Each statement of SQLite gives the interpreter away and waits for it again, and a busy loop is late for it. A process of
its own has its own interpreter, and takes of the processor what nobody else wants.

The process ends when its standard input does, so it never outlives the worker that holds the lease. Once a second, when
it has news, it writes how far it is behind as a line of JSON.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from pochta import log
from pochta.index.feed import Lag

COMMAND: Final = (sys.executable, "-P", "-m", "pochta.index.child")  # -P: never import from the current folder
STOP_S: Final = 5.0  # a batch takes tens of milliseconds, one large message seconds
AGAIN_S: Final = 10.0  # before another is started


class IndexProcess:
    """Keeps one feeding process running; `run` ends only by cancellation."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lag: Lag | None = None

    def lag(self) -> Lag | None:
        """How far behind it is, as it told last; None while there is none that told it."""
        return self._lag

    async def run(self) -> None:
        """Feed for ever."""
        while True:
            # a session of its own: the keyboard's interrupt is for the server, which ends it in good order
            process = await asyncio.create_subprocess_exec(
                *COMMAND, str(self._data_dir), stdin=PIPE, stdout=PIPE, start_new_session=True
            )
            try:
                await self._listen(process)
            finally:
                self._lag = None
                await _end(process)
            log.event("index.process.ended", pid=process.pid, code=process.returncode)
            await asyncio.sleep(AGAIN_S)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            with suppress(msgspec.DecodeError):  # it ended while it wrote
                self._lag = msgspec.json.decode(line, type=Lag)


async def _end(process: Process) -> None:
    """Let the process end by itself, or end it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
