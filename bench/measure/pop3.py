"""What one client sees of POP3: `pop3`, RETR of small messages, each with bytes of its own."""

import socket
import threading
import time
from statistics import median

from measure import processes, wire
from measure.figures import Figure
from measure.server import BenchServer
from measure.wire import Imap

RETR_GOAL_PER_S = 5_000
APPENDED_AT_ONCE = 100
IN_FLIGHT = 200  # RETRs sent before the first is answered, as fetching clients that pipeline do
END = b"\r\n.\r\n"


class Pop3:
    """One signed-in POP3 connection."""

    def __init__(self, port: int, user: str = "u0@bench.test") -> None:
        self.socket = socket.create_connection((wire.HOST, port), timeout=wire.TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.line()
        for command in (f"USER {user}", "PASS pass"):
            self.socket.sendall(f"{command}\r\n".encode())
            if not self.line().startswith(b"+OK"):
                raise RuntimeError(f"{command} was refused")

    def line(self) -> bytes:
        """A status line that comes alone."""
        data = b""
        while not data.endswith(b"\r\n"):
            data += self.socket.recv(wire.READ_BYTES)
        return data

    def retrieve(self, count: int, in_flight: int) -> float:
        """Seconds that RETR of messages 1 to `count` takes, so many of them under way."""
        began = time.perf_counter()
        allowed = threading.Semaphore(in_flight)
        block = max(1, in_flight // 4)

        def send() -> None:
            for start in range(1, count + 1, block):
                numbers = range(start, min(start + block, count + 1))
                for _ in numbers:
                    allowed.acquire()
                self.socket.sendall(b"".join(b"RETR %d\r\n" % number for number in numbers))

        sender = threading.Thread(target=send)
        sender.start()
        left, tail = count, b""
        while left:
            part = self.socket.recv(wire.READ_BYTES)
            if not part:
                raise RuntimeError("the server closed the connection")
            data = tail + part
            ended = data.count(END)
            # an end mark that was counted must not be counted again with the next part
            tail = b"" if data.endswith(END) else data[-4:]
            left -= ended
            if ended:
                allowed.release(ended)
        sender.join()
        return time.perf_counter() - began

    def retrieve_one_by_one(self, count: int) -> float:
        """As `retrieve`, each sent when the one before has come."""
        began = time.perf_counter()
        for number in range(1, count + 1):
            self.socket.sendall(b"RETR %d\r\n" % number)
            tail = b""
            while not tail.endswith(END):
                tail = (tail + self.socket.recv(wire.READ_BYTES))[-5:]
        return time.perf_counter() - began

    def close(self) -> None:
        """Close without a word: nothing is marked."""
        self.socket.close()


def _fill(server: BenchServer, messages: int, size: int) -> None:
    imap = Imap(server.imap_port, "u0@bench.test")
    for start in range(0, messages, APPENDED_AT_ONCE):
        texts = [wire.sample_message(size, number=start + number) for number in range(APPENDED_AT_ONCE)]
        imap.command(b"APPEND INBOX" + b"".join(b" {%d+}\r\n%b" % (len(text), text) for text in texts))
    imap.close()


def pop3(*, workers: int, messages: int, repeats: int, size: int) -> list[Figure]:
    """RETR of every message over one connection, pipelined and one by one."""
    messages -= messages % APPENDED_AT_ONCE
    with BenchServer(workers=workers) as server:
        server.start()
        _fill(server, messages, size)
        return [
            _measure("pop3 retr", server, messages, repeats, IN_FLIGHT),
            _measure("pop3 retr one by one", server, messages, repeats, 1),
        ]


def _measure(name: str, server: BenchServer, messages: int, repeats: int, in_flight: int) -> Figure:
    client = Pop3(server.pop3_port)
    before = processes.cpu_s(server.pid)
    if in_flight == 1:
        times = [client.retrieve_one_by_one(messages) for _ in range(repeats)]
    else:
        times = [client.retrieve(messages, in_flight) for _ in range(repeats)]
    cpu_us = (processes.cpu_s(server.pid) - before) / messages / repeats * 1e6
    client.close()
    detail: dict[str, object] = {
        "median": round(messages / median(times)),
        "server_cpu_us": round(cpu_us, 1),
        "messages": messages,
        "in_flight": in_flight,
    }
    return Figure(name, messages / min(times), "msg/s", RETR_GOAL_PER_S, False, detail)
