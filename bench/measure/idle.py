"""`idle`: memory of a TLS connection that waits in IDLE, on either event loop."""

import resource
import ssl
import time

from measure import processes
from measure.figures import Figure
from measure.server import BenchServer
from measure.wire import Imap

GOALS_KIB = {"uvloop": 40.0, "asyncio": 56.0}
WARM_UP = 100  # connections made before and kept: what is made once is not counted, and no freed memory is used again


def idle(*, workers: int, connections: int, is_bare: bool = False) -> list[Figure]:
    """PSS for each connection, from the difference that `connections` of them make."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    figures = []
    for loop in ("uvloop", "asyncio"):
        with BenchServer(workers=workers, loop=None if loop == "uvloop" else loop) as server:
            server.start()
            pss, rss = _measure(server, connections, is_bare)
        detail: dict[str, object] = {
            "rss_kib": round(rss, 1),
            "connections": connections,
            "state": "greeted" if is_bare else "signed in, INBOX selected, IDLE",
        }
        figures.append(Figure(f"idle {loop}", pss, "KiB PSS/connection", GOALS_KIB[loop], True, detail))
    return figures


def _measure(server: BenchServer, connections: int, is_bare: bool) -> tuple[float, float]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect(number: int) -> Imap:
        imap = Imap(server.imaps_port, f"u{number % 50}", tls=context, signs_in=not is_bare)
        if not is_bare:
            imap.command(b"SELECT INBOX")
            imap.socket.sendall(b"t IDLE\r\n")
            imap.socket.recv(100)
        return imap

    held = [connect(number) for number in range(WARM_UP)]
    time.sleep(0.3)
    before = processes.memory_kib(server.pid)
    held += [connect(number) for number in range(connections)]
    time.sleep(0.5)
    after = processes.memory_kib(server.pid)
    for one in held:
        one.close()
    return (after[0] - before[0]) / connections, (after[1] - before[1]) / connections
