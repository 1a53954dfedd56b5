"""`idle`: memory of a TLS connection that waits in IDLE, on either event loop, compressed (RFC 4978) or not."""

import resource
import ssl
import time
import zlib

from measure import processes
from measure.figures import Figure
from measure.server import BenchServer
from measure.wire import Imap

GOALS_KIB = {"uvloop": 40.0, "asyncio": 56.0}
COMPRESSED_KIB = 16.0  # more with COMPRESS: the decompressor's state and what of its window the client has filled
WARM_UP = 100  # connections made before and kept: what is made once is not counted, and no freed memory is used again


def idle(*, workers: int, connections: int, is_bare: bool = False) -> list[Figure]:
    """PSS for each connection, from the difference that `connections` of them make."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    figures = []
    for loop, is_compressed in (("uvloop", False), ("asyncio", False), ("uvloop", True), ("asyncio", True)):
        if is_bare and is_compressed:
            continue
        with BenchServer(workers=workers, loop=None if loop == "uvloop" else loop) as server:
            server.start()
            pss, rss = _measure(server, connections, is_bare=is_bare, is_compressed=is_compressed)
        detail: dict[str, object] = {
            "rss_kib": round(rss, 1),
            "connections": connections,
            "state": "greeted" if is_bare else "signed in, INBOX selected, IDLE",
        }
        name = f"idle {loop} compressed" if is_compressed else f"idle {loop}"
        goal = GOALS_KIB[loop] + (COMPRESSED_KIB if is_compressed else 0.0)
        figures.append(Figure(name, pss, "KiB PSS/connection", goal, True, detail))
    return figures


def _begin_deflate(imap: Imap, line: bytes) -> bytes:
    """Compress from now on, and say a few things; `line` as it is to be sent."""
    imap.command(b"COMPRESS DEFLATE")
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    answers = zlib.decompressobj(-15)
    for said in (b"t UID FETCH 1:* FLAGS\r\n", b"t NOOP\r\n", b"t NOOP\r\n"):
        imap.socket.sendall(stream.compress(said) + stream.flush(zlib.Z_SYNC_FLUSH))
        while not answers.decompress(imap.socket.recv(65_536)).endswith(b"completed\r\n"):
            pass
    return stream.compress(line) + stream.flush(zlib.Z_SYNC_FLUSH)


def _measure(server: BenchServer, connections: int, *, is_bare: bool, is_compressed: bool) -> tuple[float, float]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect(number: int) -> Imap:
        imap = Imap(server.imaps_port, f"u{number % 50}", tls=context, signs_in=not is_bare)
        if not is_bare:
            imap.command(b"SELECT INBOX")
            imap.socket.sendall(_begin_deflate(imap, b"t IDLE\r\n") if is_compressed else b"t IDLE\r\n")
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
