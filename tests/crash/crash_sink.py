"""A mail server that keeps transactions open for as long as the test wants, and knows all that it has said 250 for.

Each connection stalls at a stage of its transaction that the test's random numbers name, until it is released. Runs in
a thread of its own; what it knows is read under its lock.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

from crash_server import DEADLINE_S

Delivery = tuple[str, str]  # Message-ID, recipient
STAGES = ("mail", "rcpt", "data", "end", "end", "end")  # most are at the moment that matters
_MESSAGE_ID = re.compile(rb"(?im)^Message-ID: *(<[^>]*>)")


class SinkConnection(asyncio.Protocol):
    """One connection; `stalled` tells at which stage it waits."""

    def __init__(self, sink: "Sink") -> None:
        self.sink = sink
        self.pending = b""
        self.recipients: list[str] = []
        self.is_data = False
        self.in_transaction = False
        self.stalled = ""
        self.message_id = ""
        self.stalls_at = sink.random.choice(STAGES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.sink.connections.add(self)
        self.write(b"220 sink\r\n")

    def connection_lost(self, error: Exception | None) -> None:
        self.sink.connections.discard(self)

    def write(self, octets: bytes) -> None:
        self.transport.write(octets)

    def data_received(self, data: bytes) -> None:
        with self.sink.lock:
            self.pending += data
            self.go_on()

    def go_on(self) -> None:
        """Answer what can be answered, up to the stage at which this connection stalls."""
        while not self.stalled:
            if self.is_data:
                end = self.pending.find(b"\r\n.\r\n")
                if end < 0:
                    return
                message, self.pending = self.pending[:end], self.pending[end + 5 :]
                self.is_data = False
                found = _MESSAGE_ID.search(message)
                assert found is not None
                self.message_id = found[1].decode()
                self._reach("end")
                continue
            line, found_end, rest = self.pending.partition(b"\r\n")
            if not found_end:
                return
            self.pending = rest
            self._take(line.decode())

    def _take(self, line: str) -> None:
        verb = line[:4].upper()
        if verb == "EHLO":
            self.write(b"250-sink\r\n250 PIPELINING\r\n" if self.sink.random.random() < 0.5 else b"250 sink\r\n")
        elif verb == "MAIL":
            self.recipients, self.in_transaction = [], True
            self._reach("mail")
        elif verb == "RCPT":
            self.recipients.append(line.partition("<")[2].partition(">")[0])
            self._reach("rcpt")
        elif verb == "DATA":
            self._reach("data")
        elif verb == "RSET":
            self.in_transaction = False
            self.write(b"250 ok\r\n")
        else:
            self.write(b"221 bye\r\n")
            self.transport.close()

    def _reach(self, stage: str) -> None:
        self.stalled = stage
        if not self.sink.stalls or self.stalls_at != stage:
            self.release()

    def release(self) -> None:
        """Give the answer that was held back."""
        stage, self.stalled = self.stalled, ""
        if stage == "data":
            self.is_data = True
            self.write(b"354 go\r\n")
        elif stage == "end":
            self.in_transaction = False
            self.stalls_at = self.sink.random.choice(STAGES)
            self.sink.accepted.update((self.message_id, one) for one in self.recipients)
            self.write(b"250 taken\r\n")
        else:
            self.write(b"250 ok\r\n")


class Sink:
    """`accepted` counts how often each recipient's message was answered 250."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.lock = threading.RLock()
        self.accepted: Counter[Delivery] = Counter()
        self.stalls = True
        self.connections: set[SinkConnection] = set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> "Sink":
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        server = self._loop.run_until_complete(self._loop.create_server(lambda: SinkConnection(self), "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for one in list(self.connections):
            one.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def stalled(self, *stages: str) -> list[SinkConnection]:
        """The connections that wait, at one of these stages or at any."""
        with self.lock:
            return [one for one in self.connections if one.stalled and (not stages or one.stalled in stages)]

    def open_transactions(self) -> int:
        """How many have begun and have no final answer."""
        with self.lock:
            return sum(one.in_transaction for one in self.connections)

    def call(self, work: Callable[[], None]) -> None:
        """Run `work` in the sink's loop, and wait for it."""
        done = threading.Event()

        def locked() -> None:
            with self.lock:
                work()
            done.set()

        self._loop.call_soon_threadsafe(locked)
        assert done.wait(DEADLINE_S)

    def release(self, connections: list[SinkConnection]) -> None:
        """Give these the answer that they wait for; they stall again in their next transaction."""

        def work() -> None:
            for one in connections:
                if one.stalled:
                    one.release()
                    one.go_on()

        self.call(work)
