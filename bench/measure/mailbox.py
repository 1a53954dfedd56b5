"""What one client sees of IMAP: `fetch`, `select`, `noop`."""

import threading
import time
from statistics import median

from measure import processes, wire
from measure.figures import Figure, percentile
from measure.fill import fill
from measure.server import BenchServer
from measure.wire import Imap

FETCH_GOAL_PER_S = 1_000_000
SELECT_GOAL_MS = 1.0
NOOP_GOAL_PER_S = 100_000
MAILBOX = "big"


def _filled(server: BenchServer, messages: int) -> None:
    fill(server.data_dir, "u0@bench.test", MAILBOX, messages, wire.sample_message(1400))
    server.start()


def fetch(*, workers: int, messages: int, repeats: int) -> list[Figure]:
    """FETCH 1:* (UID FLAGS), warm. The first one, which reads the view from the store, is told apart."""
    with BenchServer(workers=workers) as server:
        _filled(server, messages)
        imap = Imap(server.imap_port)
        imap.command(b"SELECT " + MAILBOX.encode())
        times = []
        cpu = []
        for _ in range(repeats + 1):
            before = processes.cpu_s(server.pid)
            count, taken = imap.count(b"FETCH 1:* (UID FLAGS)")
            cpu.append(processes.cpu_s(server.pid) - before)
            if count != messages:
                raise RuntimeError(f"{count} messages instead of {messages}")
            times.append(taken)
        imap.close()
    first, warm = times[0], times[1:]
    detail: dict[str, object] = {
        "median": round(messages / median(warm)),
        "first": round(messages / first),
        "server_cpu_us": round(sum(cpu[1:]) / repeats / messages * 1e6, 2),
        "messages": messages,
    }
    return [Figure("fetch", messages / min(warm), "msg/s", FETCH_GOAL_PER_S, False, detail)]


# What mail programs ask of a mailbox they have not seen: Thunderbird's list of fields
OVERVIEW = (
    b"FETCH 1:* (UID ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (From To Cc Bcc Subject Date Message-ID Priority"
    b" X-Priority References Newsgroups In-Reply-To Content-Type Reply-To List-Post)])"
)
OVERVIEW_GOAL_PER_S = 150_000


def overview(*, workers: int, messages: int, repeats: int) -> list[Figure]:
    """What a list of messages shows, of the whole mailbox: warm, and by the first client after a start."""
    figures = []
    with BenchServer(workers=workers) as server:
        _filled(server, messages)
        for name, goal in (("overview first", OVERVIEW_GOAL_PER_S), ("overview", OVERVIEW_GOAL_PER_S)):
            imap = Imap(server.imap_port)
            imap.command(b"SELECT " + MAILBOX.encode())
            times = []
            before = processes.cpu_s(server.pid)
            runs = 1 if name != "overview" else repeats
            for _ in range(runs):
                count, taken = imap.count(OVERVIEW)
                if count != messages:
                    raise RuntimeError(f"{count} messages instead of {messages}")
                times.append(taken)
            cpu_us = (processes.cpu_s(server.pid) - before) / runs / messages * 1e6
            imap.close()
            detail: dict[str, object] = {
                "median": round(messages / median(times)),
                "server_cpu_us": round(cpu_us, 2),
                "messages": messages,
            }
            figures.append(Figure(name, messages / min(times), "msg/s", goal, False, detail))
    return figures


def select(*, workers: int, messages: int, repeats: int) -> list[Figure]:
    """SELECT over a new connection, and the first one after a restart."""
    command = b"SELECT " + MAILBOX.encode()
    with BenchServer(workers=workers) as server:
        _filled(server, messages)
        new = [_select_ms(server, command) for _ in range(20 * repeats)]
        after = []
        for _ in range(repeats):
            server.stop()
            server.start()
            after.append(_select_ms(server, command))
    detail: dict[str, object] = {"messages": messages, "p99": round(percentile(new, 0.99), 2), "n": len(new)}
    restarted: dict[str, object] = {"messages": messages, "runs": "/".join(f"{value:.2f}" for value in after)}
    return [
        Figure("select", median(new), "ms", SELECT_GOAL_MS, True, detail),
        Figure("select after restart", median(after), "ms", SELECT_GOAL_MS, True, restarted),
    ]


def _select_ms(server: BenchServer, command: bytes) -> float:
    imap = Imap(server.imap_port)
    began = time.perf_counter()
    imap.command(command)
    taken = time.perf_counter() - began
    imap.close()
    return taken * 1e3


def noop(*, workers: int, commands: int, repeats: int) -> list[Figure]:
    """NOOPs sent without waiting over one connection, with no mailbox selected and with one of 1000 messages."""
    figures = []
    with BenchServer(workers=workers) as server:
        _filled(server, 1000)
        for is_selected in (False, True):
            imap = Imap(server.imap_port)
            if is_selected:
                imap.command(b"SELECT " + MAILBOX.encode())
                imap.command(b"FETCH 1 (FLAGS)")
            before = processes.cpu_s(server.pid)
            rates = [_noops_per_s(imap, commands) for _ in range(repeats)]
            cpu = (processes.cpu_s(server.pid) - before) / commands / repeats
            imap.close()
            detail: dict[str, object] = {
                "median": round(median(rates)),
                "server_cpu_us": round(cpu * 1e6, 2),
                "commands": commands,
            }
            name = "noop selected" if is_selected else "noop"
            figures.append(Figure(name, max(rates), "commands/s", NOOP_GOAL_PER_S, False, detail))
    return figures


def _noops_per_s(imap: Imap, commands: int) -> float:
    block = 1000
    data = b"t NOOP\r\n" * block

    def send() -> None:
        for _ in range(commands // block):
            imap.socket.sendall(data)

    began = time.perf_counter()
    sender = threading.Thread(target=send)
    sender.start()
    left = commands // block * block
    while left:
        part = imap.socket.recv(wire.READ_BYTES)
        if not part:
            raise RuntimeError("the server closed the connection")
        left -= part.count(b"\n")
    sender.join()
    return commands / (time.perf_counter() - began)
