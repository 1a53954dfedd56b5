"""Asks every worker of a data folder for its figures, all at once; what a killed one left behind is removed."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from pochta.status.figures import Status, WorkerFigures, together
from pochta.status.worker import SUFFIX, pid_of, short_path

ANSWER_S: Final = 2.0  # a loop that is late by more than this is in trouble, and that is the news
MAX_ANSWER_BYTES: Final = 1024 * 1024  # an answer has 2 KB; a listener more is 60 bytes more


async def collect(data_dir: Path) -> Status:
    """The figures of all workers that answer within ANSWER_S.

    Raises:
        OSError: data_dir/run may not be read; the caller is not the server's user.
    """
    run_dir = data_dir / "run"
    try:
        names = sorted(name for name in os.listdir(run_dir) if name.endswith(SUFFIX))
    except FileNotFoundError:
        names = []
    answers = await asyncio.gather(*(_ask(run_dir, name) for name in names))
    workers = sorted((one for one in answers if isinstance(one, WorkerFigures)), key=lambda one: one.worker)
    silent = tuple(pid_of(name) for name, one in zip(names, answers, strict=True) if one is None)
    return Status(server=together(workers), workers=tuple(workers), silent=silent)


class _Nobody:
    """In place of an answer: there was only a leftover."""


async def _ask(run_dir: Path, name: str) -> WorkerFigures | _Nobody | None:
    """One worker's figures; None when it does not answer."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    with asking:
        try:
            with short_path(run_dir) as folder:
                asking.connect(f"{folder}/{name}")  # at once, or EAGAIN when too many wait there already
            async with asyncio.timeout(ANSWER_S):
                return msgspec.json.decode(await _read(asking), type=WorkerFigures)
        except ConnectionRefusedError:
            (run_dir / name).unlink(missing_ok=True)
            return _Nobody()
        except FileNotFoundError:  # it ended just now
            return _Nobody()
        except (OSError, TimeoutError, msgspec.DecodeError):  # DecodeError: it ended while it spoke
            return None


async def _read(asking: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while part := await loop.sock_recv(asking, 65_536):
        data += part
        if len(data) > MAX_ANSWER_BYTES:
            raise OSError("the answer does not end")
    return data
