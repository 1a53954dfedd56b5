"""News of changes: by a call inside the process, by Unix datagram between the processes of one data folder.

A hint is only a hint: it may be lost (a full socket buffer), merged or reordered; the store is the truth. Whoever lost
one learns of the change by the poll of `PRAGMA data_version` once a second (`Store`), which is told as `ANYTHING`.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from pochta import clock
from pochta.store.tx import Hint

ANYTHING: Final = Hint(0, 0)  # account 0 does not exist: "some account may have changed"

_PAIR: Final = struct.Struct("<qq")
_PAIRS_A_DATAGRAM: Final = 256  # 4 KiB: far below any socket buffer; more than that is told as ANYTHING
_SUFFIX: Final = ".hint"
GATHER_S: Final = 0.002  # between two datagrams: to wake another process costs 60 us, a fast client's STOREs no more
LISTED_S: Final = 0.05  # so old may the list of the others be; whoever comes meanwhile has just read the store itself

_HAS_PROC: Final = os.path.isdir("/proc/self/fd")

Listener = Callable[[list[Hint]], None]


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


class HintHub:
    """Hands each commit's hints to the listeners of this process and to the other processes."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._listeners: list[Listener] = []
        self._socket: socket.socket | None = None
        self._own_name = ""
        self._others: list[str] = []
        self._listed_until_s = -1.0
        self._gathered: list[Hint] = []  # told to the others when the time comes
        self._told_at_s = -1.0

    def start(self) -> None:
        """Open this process's socket on the running loop.

        Source: unix(7); the name carries the pid, so that leftovers of dead processes can be told apart.
        """
        self._run_dir.mkdir(mode=0o700, exist_ok=True)
        self._own_name = f"{os.getpid()}-{clock.token_hex(4)}{_SUFFIX}"
        self._socket = _datagram_socket()
        self._bind(self._socket)
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def _bind(self, sock: socket.socket) -> None:
        # sun_path holds 108 bytes; a deep data folder is reached through its own descriptor instead
        folder = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            sock.bind(f"/proc/self/fd/{folder}/{self._own_name}" if _HAS_PROC else self._path())
        finally:
            os.close(folder)

    def _path(self) -> str:
        return str(self._run_dir / self._own_name)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._tell_gathered()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            (self._run_dir / self._own_name).unlink(missing_ok=True)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every batch of hints; the answer ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, hints: list[Hint]) -> None:
        """Tell everybody: this process at once, the others by datagram, at most one in GATHER_S."""
        self.tell_here(hints)
        if self._socket is None:
            self.tell_others(hints)
            return
        if not self._gathered:
            wait_s = self._told_at_s + GATHER_S - clock.monotonic_s()
            if wait_s <= 0:
                self._told_at_s = clock.monotonic_s()
                self.tell_others(hints)
                return
            asyncio.get_running_loop().call_later(wait_s, self._tell_gathered)
        self._gathered += hints

    def _tell_gathered(self) -> None:
        hints, self._gathered = self._gathered, []
        if hints:
            self._told_at_s = clock.monotonic_s()
            self.tell_others(hints)

    def tell_here(self, hints: list[Hint]) -> None:
        """Tell the listeners of this process only."""
        for listener in tuple(self._listeners):
            listener(hints)

    def tell_others(self, hints: list[Hint]) -> None:
        """Send one datagram to each other process; a process that does not keep up loses it.

        Nothing is raised: the lane calls this, and a hint may be lost (INV-4).
        """
        latest: dict[int, int] = {}
        for account_id, mod_seq in hints:
            latest[account_id] = max(mod_seq, latest.get(account_id, 0))
        pairs = list(latest.items()) if len(latest) <= _PAIRS_A_DATAGRAM else [ANYTHING]
        data = b"".join(_PAIR.pack(account_id, mod_seq) for account_id, mod_seq in pairs)
        with suppress(OSError):  # no folder, or no descriptor is left (EMFILE): the others poll
            self._send(data)

    def _send(self, data: bytes) -> None:
        now = clock.monotonic_s()
        if now >= self._listed_until_s:
            self._others = [
                name for name in os.listdir(self._run_dir) if name.endswith(_SUFFIX) and name != self._own_name
            ]
            self._listed_until_s = now + LISTED_S
        if not self._others:
            return
        sender = self._socket or _datagram_socket()
        folder = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY)
        base = f"/proc/self/fd/{folder}" if _HAS_PROC else str(self._run_dir)
        try:
            for name in tuple(self._others):
                try:
                    sender.sendto(data, f"{base}/{name}")
                except ConnectionRefusedError:
                    self._remove_leftover(name)
                except OSError:
                    continue  # gone, or its buffer is full: it polls
        finally:
            os.close(folder)
            if sender is not self._socket:
                sender.close()

    def _remove_leftover(self, name: str) -> None:
        """Nobody holds this socket any more: its process was killed."""
        self._others.remove(name)
        (self._run_dir / name).unlink(missing_ok=True)

    def _receive(self) -> None:
        hints: list[Hint] = []
        while self._socket is not None and len(hints) < _PAIRS_A_DATAGRAM * 16:
            try:
                data = self._socket.recv(_PAIR.size * _PAIRS_A_DATAGRAM)
            except BlockingIOError:
                break
            hints += [Hint(*pair) for pair in _PAIR.iter_unpack(data[: len(data) - len(data) % _PAIR.size])]
        if hints:
            self.tell_here(hints)
