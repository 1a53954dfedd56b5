"""`logins`: sign-ins with a remembered password, a new connection for each, by LOGIN and by AUTHENTICATE PLAIN."""

import selectors
import socket
import ssl
import time
from base64 import b64encode
from statistics import median

from measure import processes
from measure.figures import Figure, percentile
from measure.server import HOST, BenchServer
from measure.wire import Imap

GOAL_PER_S = 1500.0
USERS = 50


def logins(*, workers: int, connections: int, seconds: float, repeats: int) -> list[Figure]:
    """Sign-ins a second over the plain port, and over TLS with a handshake for each."""
    with BenchServer(workers=workers) as server:
        server.start()
        for _ in range(20 * workers):  # every worker has every password: 50 users, each seen by chance
            for user in range(USERS):
                Imap(server.imap_port, f"u{user}").close()
        found = []
        for name, make in (("LOGIN", _login), ("AUTHENTICATE PLAIN", _authenticate)):
            lines = [make(f"u{user}") for user in range(USERS)]
            runs = [_Load(server.imap_port, lines).run(connections, seconds, server.pid) for _ in range(repeats)]
            found.append(_figure(f"logins {name}", runs, connections, GOAL_PER_S))
        rates = [_over_tls(server, seconds / 2) for _ in range(repeats)]
        found.append(Figure("logins TLS", median(rates), "/s", None, False, {"connections": 1, "n": repeats}))
    return found


def _figure(name: str, runs: list[tuple[float, float, float]], connections: int, goal: float) -> Figure:
    rates, p99s, cpus = zip(*runs, strict=True)
    detail: dict[str, object] = {
        "best": round(max(rates)),
        "p99_ms": round(median(p99s) * 1000, 1),
        "server_cpu_us": round(median(cpus) * 1e6),
        "connections": connections,
        "n": len(runs),
    }
    return Figure(name, median(rates), "/s", goal, False, detail)


def _login(user: str) -> bytes:
    return f"a LOGIN {user}@bench.test pass\r\n".encode()


def _authenticate(user: str) -> bytes:
    return b"a AUTHENTICATE PLAIN " + b64encode(f"\0{user}@bench.test\0pass".encode()) + b"\r\n"


def _over_tls(server: BenchServer, seconds: float) -> float:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        Imap(server.imaps_port, f"u{count % USERS}", tls=context).close()
        count += 1
    return count / (time.perf_counter() - began)


class _Load:
    """Connections that wait for the greeting, sign in, wait for the OK, close, and are followed by the next."""

    def __init__(self, port: int, lines: list[bytes]) -> None:
        self.port, self.lines = port, lines
        self.count = 0
        self.times_s: list[float] = []
        self.selector = selectors.DefaultSelector()

    def run(self, connections: int, seconds: float, pid: int) -> tuple[float, float, float]:
        """Sign-ins a second, p99 of the time from connect to OK, CPU seconds of the server for each."""
        cpu = processes.cpu_s(pid)
        began = time.perf_counter()
        for _ in range(connections):
            self._open()
        while time.perf_counter() - began < seconds:
            for key, _ in self.selector.select(1.0):
                self._read(key.fileobj, key.data)
        wall = time.perf_counter() - began
        used = processes.cpu_s(pid) - cpu
        for key in tuple(self.selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self.selector.close()
        done = len(self.times_s)
        return done / wall, percentile(self.times_s, 0.99), used / done

    def _open(self) -> None:
        made = socket.create_connection((HOST, self.port))
        self.selector.register(made, selectors.EVENT_READ, time.perf_counter())

    def _read(self, peer: object, began: float) -> None:
        assert isinstance(peer, socket.socket)
        data = peer.recv(4096)
        if data.startswith(b"* OK "):
            peer.sendall(self.lines[self.count % len(self.lines)])
            self.count += 1
            return
        if not data.startswith(b"a OK "):
            raise RuntimeError(f"no sign-in: {data!r}")
        self.times_s.append(time.perf_counter() - began)
        self.selector.unregister(peer)
        peer.close()
        self._open()
