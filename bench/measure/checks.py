"""`checks`: signed mail from other servers a second, with SPF, DKIM and DMARC, and the same mail unchecked.

Twenty domains with their own RSA-2048 key, SPF and DMARC records in a name server on loopback; each sends ten different
messages, signed before the clock runs. One worker's cache holds the answers after the first round, so that the figure
is of the checks and not of the name server.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from measure import processes, wire
from measure.figures import Figure, percentile
from measure.server import BenchServer
from measure.wire import Imap, Mail
from pochta.policy.dkim.keys import Algorithm, SigningKey
from pochta.policy.dkim.sign import sign
from pochta.testing.nameserver import Nameserver

GOAL_PER_S = 700
DOMAINS = 20
MAILS = 10  # of each domain
CLIENTS = 2
WARM_S = 1.0
SELECTOR = "s1"
TXT_MAX = 255  # of one string of a TXT record
PASSES = (b"spf=pass", b"dkim=pass", b"dmarc=pass", b"iprev=pass")

_Run = tuple[float, float, list[float]]  # messages a second, CPU of the server in us for each, times


def checks(*, workers: int, connections: int, seconds: float, repeats: int, size: int) -> list[Figure]:
    """The best of `repeats` runs counts; all are told."""
    with Nameserver() as names:
        mails = [mail for n in range(DOMAINS) for mail in _domain(names, n, size)]
        names.add_zone("example.org", 'client A 127.0.0.1\nclient TXT "v=spf1 a -all"\n')
        names.add_zone("127.in-addr.arpa", "1.0.0 PTR client.example.org.\n")
        host, port = names.address
        on = f'[dns]\nservers = ["{host}:{port}"]\n'
        checked = _runs(on, workers, connections, seconds, repeats, mails, is_checked=True)
    off = "[checks]\nenabled = false\n"
    unchecked = _runs(off, workers, connections, seconds, repeats, mails, is_checked=False)
    shared: dict[str, object] = {"workers": workers, "connections": connections, "bytes": len(mails[0].message)}
    return [
        _figure("checks", checked, GOAL_PER_S * workers, shared),
        _figure("checks, turned off", unchecked, None, shared),
    ]


def _figure(name: str, runs: list[_Run], goal: float | None, shared: dict[str, object]) -> Figure:
    best = max(runs)
    detail: dict[str, object] = {
        "runs": "/".join(f"{run[0]:.0f}" for run in runs),
        "server_cpu_us": round(min(run[1] for run in runs)),
        "cpu_runs": "/".join(f"{run[1]:.0f}" for run in runs),
        "p50_ms": round(percentile(best[2], 0.5) * 1e3, 1),
        "p99_ms": round(percentile(best[2], 0.99) * 1e3, 1),
        **shared,
    }
    return Figure(name, best[0], "messages/s", goal, False, detail)


def _domain(names: Nameserver, n: int, size: int) -> list[Mail]:
    """Ten signed messages of a domain that DNS knows from now on."""
    domain = f"sender{n}.test"
    key = SigningKey.generate(Algorithm.RSA_SHA256)
    record = key.public_record()
    strings = " ".join(f'"{record[at : at + TXT_MAX]}"' for at in range(0, len(record), TXT_MAX))
    names.add_zone(
        domain,
        f'@ TXT "v=spf1 ip4:127.0.0.1 -all"\n_dmarc TXT "v=DMARC1; p=reject"\n{SELECTOR}._domainkey TXT {strings}\n',
    )
    mails = []
    for number in range(MAILS):
        message = wire.sample_message(size, number=n * MAILS + number)
        message = message.replace(b"@example.org>", f"@{domain}>".encode(), 1)
        header, _, body = message.partition(b"\r\n\r\n")
        signature = sign(header + b"\r\n", (body,), [(SELECTOR, domain, key)], now_s=time.time())
        mails.append(Mail(f"anna{number}@{domain}", signature + message))
    return mails


def _runs(
    tables: str, workers: int, connections: int, seconds: float, repeats: int, mails: list[Mail], *, is_checked: bool
) -> list[_Run]:
    users = [f"u{n % 50}" for n in range(connections)]
    runs: list[_Run] = []
    spawn = multiprocessing.get_context("spawn")
    with BenchServer(workers=workers, tables=tables) as server, ProcessPoolExecutor(CLIENTS, mp_context=spawn) as pool:
        server.start()
        wire.deliver(server.smtp_port, users, mails, WARM_S)
        if is_checked:
            _require_passes(server)
        list(pool.map(time.sleep, [0.1] * CLIENTS))  # so that no client is still starting
        for _ in range(repeats):
            before = processes.cpu_s(server.pid)
            parts = [
                pool.submit(wire.deliver, server.smtp_port, users[n::CLIENTS], mails[n:] + mails[:n], seconds)
                for n in range(CLIENTS)
            ]
            done = [part.result() for part in parts]
            count = sum(one.count for one in done)
            cpu_us = (processes.cpu_s(server.pid) - before) / count * 1e6
            times = [value for one in done for value in one.times_s]
            runs.append((count / max(one.wall_s for one in done), cpu_us, times))
    return runs


def _require_passes(server: BenchServer) -> None:
    """A check that does not pass is another, cheaper, way."""
    reader = Imap(server.imap_port)
    reader.command(b"SELECT INBOX")
    results = reader.command(b"FETCH 1 BODY.PEEK[HEADER.FIELDS (Authentication-Results)]")
    reader.close()
    if not all(one in results for one in PASSES):
        raise RuntimeError(f"not everything passes: {results!r}")
