"""`deliver`: durable local deliveries a second, of 4 kB, over 50 SMTP connections against one worker."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from measure import processes, wire
from measure.figures import Figure, percentile
from measure.server import BenchServer

GOAL_PER_S = 1500


def deliver(
    *, workers: int, connections: int, seconds: float, repeats: int, size: int, clients: int = 2
) -> list[Figure]:
    """The best of `repeats` runs counts; all are told."""
    message = wire.sample_message(size)
    users = [f"u{n % 50}" for n in range(connections)]
    runs: list[tuple[float, float, list[float], float]] = []
    spawn = multiprocessing.get_context("spawn")
    with BenchServer(workers=workers) as server, ProcessPoolExecutor(clients, mp_context=spawn) as pool:
        server.start()
        list(pool.map(time.sleep, [0.1] * clients))  # so that no client is still starting
        for _ in range(repeats):
            cpu_before = processes.cpu_s(server.pid)
            parts = [
                pool.submit(wire.deliver, server.smtp_port, users[n::clients], message, seconds) for n in range(clients)
            ]
            done = [part.result() for part in parts]
            count = sum(one.count for one in done)
            cpu = processes.cpu_s(server.pid) - cpu_before
            times = [value for one in done for value in one.times_s]
            runs.append((count / max(one.wall_s for one in done), cpu / count * 1e6, times, cpu))
    best = max(runs)
    detail: dict[str, object] = {
        "runs": "/".join(f"{run[0]:.0f}" for run in runs),
        "p50_ms": round(percentile(best[2], 0.5) * 1e3, 1),
        "p99_ms": round(percentile(best[2], 0.99) * 1e3, 1),
        "server_cpu_us": round(min(run[1] for run in runs)),
        "workers": workers,
        "connections": connections,
        "bytes": len(message),
    }
    return [Figure("deliver", best[0], "deliveries/s", GOAL_PER_S, False, detail)]
