"""One case against one server, in a process of its own: `python -m measure.load JSON`, results as JSON lines.

The clients, messages and most cases are those of `mailbench.py`, which is imported from its folder and left as it is.
What is ours is put in its place: the meter (`rest.py`), the line of a result, how a mailbox is filled (`planted.py`),
and the cases that would ask an unchanged mailbox the same question twice (`changing.py`).

Every case finds a server that was started for it with an empty store.
"""

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from measure import changing, rest
from measure.figures import percentile
from measure.planted import plant

USERS = 50
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: the case, its sizes, and where the server is. `data_dir` is None unless it is a Pochta."""

    case: str
    peer: str
    repeat: int
    bench: str
    imap_port: int
    pop3_port: int
    smtp_port: int
    pid_files: tuple[str, ...]
    restart: str
    data_dir: str | None
    sizes: tuple[int, ...]
    conns: tuple[int, ...]
    msg_sizes: tuple[int, ...]
    idle: tuple[int, ...]
    n: int | None
    seconds: float
    is_cold: bool  # also after restarts

    def json(self) -> str:
        """As `main` takes it."""
        return json.dumps(asdict(self))


class Meter:
    """`with Meter(load) as m:` around the work of the clients; `+=` puts several together.

    `wall` and `ccpu` (the client's) end with the block; `cpu` and memory are read when the server is at rest again,
    `rest_s` later; `index_s` is that time when our text index was behind. `is_reading`: the clients write nothing.
    `is_resting`: nothing was done since the meter before.
    """

    wall: float  # a case of mailbench may set it before it leaves the block

    def __init__(self, load: "Load", *, is_reading: bool, is_resting: bool) -> None:
        self._load = load
        self._is_reading, self._is_resting = is_reading, is_resting
        self.ccpu = self.cpu = self.cpu_error = self.rest_s = 0.0
        self.pss = self.rss = 0.0
        self.index_s: float | None = None
        self.is_rest = True
        self.lag_ms: float | None = None
        self.lag_since_start_ms: float | None = None
        self.lag_breaches: int | None = None

    def __enter__(self) -> Self:
        last = self._load.last_rest
        before = last if self._is_resting and last else rest.wait(self._load.server)
        self.is_rest = before.is_reached
        self._inner = before.inner
        self._cpu = rest.cpu(self._load.server.roots())
        self._ccpu = time.process_time()
        self._began = time.perf_counter()
        return self

    def lap(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    def __exit__(self, *_: object) -> None:
        if not hasattr(self, "wall"):
            self.wall = self.lap()
        ended = self._began + self.wall
        self.ccpu = time.process_time() - self._ccpu
        server, before = self._load.server, self._inner
        passed = time.perf_counter() - ended  # a case may have waited itself
        done = self._load.last_rest = rest.wait(server, after_reading=self._is_reading)
        self.cpu = done.cpu.total_s - self._cpu.total_s
        self.cpu_error = done.cpu.error_s(self._cpu)
        self.rest_s = passed + done.after_s
        self.is_rest = self.is_rest and done.is_reached
        self.pss, self.rss = rest.memory_mb(server.roots())
        if done.was_behind:
            self.index_s = self.rest_s
        if before and done.inner:
            self.lag_since_start_ms = done.inner.lag_worst_ms
            self.lag_breaches = done.inner.lag_breaches - before.lag_breaches
            is_worse = done.inner.lag_worst_ms > before.lag_worst_ms
            self.lag_ms = done.inner.lag_worst_ms if is_worse else None

    def __iadd__(self, other: "Meter") -> Self:
        self.wall += other.wall
        self.ccpu += other.ccpu
        self.cpu += other.cpu
        self.cpu_error += other.cpu_error
        self.rest_s += other.rest_s
        self.pss, self.rss = max(self.pss, other.pss), max(self.rss, other.rss)
        self.is_rest = self.is_rest and other.is_rest
        self.lag_since_start_ms = other.lag_since_start_ms
        if other.lag_breaches is not None:
            self.lag_breaches = (self.lag_breaches or 0) + other.lag_breaches
        if other.lag_ms is not None:
            self.lag_ms = max(self.lag_ms or 0.0, other.lag_ms)
        return self


@dataclass
class Load:
    """mailbench with our parts in it, and the server under it."""

    order: Order
    bench: Any  # the module
    server: rest.Watched
    args: SimpleNamespace
    suffix: str = ""  # of the case in what is written
    wrong: list[str] = field(default_factory=list)
    last_rest: rest.Rest | None = None  # at the end of the last meter

    def meter(self, *, is_reading: bool = False, is_resting: bool = False) -> Meter:
        """A new one."""
        return Meter(self, is_reading=is_reading, is_resting=is_resting)

    def emit(
        self, case: str, unit: str, value: float | None, n: int, m: Meter, lat: Sequence[float] = (), **more: object
    ) -> None:
        """Write one result."""
        if unit == "server cpu ms/s":  # of the whole time in which that CPU was used
            value = m.cpu / (m.wall + m.rest_s) * 1e3
        result: dict[str, Any] = {"peer": self.order.peer, "group": self.order.case, "case": case + self.suffix}
        result |= {"unit": unit, "value": value, "n": n, "repeat": self.order.repeat}
        for share, name in ((0.5, "p50_ms"), (0.99, "p99_ms")):
            result[name] = percentile(lat, share) * 1e3 if lat else None
        result |= {"wall_s": m.wall, "client_cpu_s": m.ccpu, "server_cpu_s": m.cpu, "server_cpu_error_s": m.cpu_error}
        result |= {"server_pss_mb": m.pss, "server_rss_mb": m.rss, "rest_s": m.rest_s, "is_rest": m.is_rest}
        result |= {"index_s": m.index_s, "lag_ms": m.lag_ms, "lag_breaches": m.lag_breaches}
        result |= {"lag_since_start_ms": m.lag_since_start_ms}
        shown = {key: round(item, 6) if isinstance(item, float) else item for key, item in (result | more).items()}
        print(json.dumps(shown), flush=True)

    def is_right(self, what: str, got: int, wanted: int) -> None:
        """Tell loudly, and remember for the exit status, when an answer is not what it has to be."""
        if got != wanted:
            self.wrong.append(f"{what}: {got} instead of {wanted}")
            print(f"# WRONG ANSWER of {self.order.peer}: {self.wrong[-1]}", file=sys.stderr, flush=True)

    def restart(self) -> None:
        """Restart the server; returns when it serves."""
        self._restart(self.args)

    def fill(self, imap: Any, mailbox: str, count: int, profile: str) -> tuple[Meter, int]:
        """(the meter, bytes) of filling an empty mailbox."""
        with self.meter() as m:
            size = imap.fill(mailbox.encode(), count, self.bench.Gen(profile))
        return m, size

    def ensure(
        self, _: object, mailbox: str, count: int, profile: str, *, user: str | None = None, **how: bool
    ) -> bool:
        """In place of mailbench's: make the mailbox hold so many messages; whether it had to be filled."""
        imap = self.bench.SImap(self.args, user)
        if b" OK" not in imap.cmd(b"SELECT " + mailbox.encode(), check=False)[-300:]:
            imap.cmd(b"CREATE " + mailbox.encode())
        have = imap.exists(mailbox.encode())
        if have != count:
            if have:
                imap.cmd(b"STORE 1:* +FLAGS.SILENT (\\Deleted)")
                imap.cmd(b"EXPUNGE")
            if how.get("quiet"):
                imap.fill(mailbox.encode(), count, self.bench.Gen(profile))
            else:
                m, size = self.fill(imap, mailbox, count, profile)
                name = f"fill-{profile}-{self.bench.kn(count)}"
                self.emit(name, "msg/s", count / m.wall, count, m, mb=round(size / 1e6, 1))
        imap.close()
        return bool(have != count)

    def patch(self) -> None:
        """Put our parts into mailbench."""
        bench, real = self.bench, self.bench.Gen

        class Planting(real):  # type: ignore[misc, valid-type]  # a class of a module that is found at run time
            def make(self, i: int) -> bytes:
                message: bytes = super().make(i)
                return plant(message, i) if self.p == "tiny" else message

        def emit(
            _: object, case: str, unit: str, value: float | None, n: int, m: Meter, lat: Any = (), **kw: Any
        ) -> None:
            self.emit(case, unit, value, n, m, lat or (), **kw)

        def restart(_: object) -> bool:
            self.restart()
            return True

        self._restart = bench.restart
        bench.Gen, bench.emit, bench.ensure, bench.restart = Planting, emit, self.ensure, restart
        bench.Meter = lambda _: self.meter()


def _twice(name: str) -> Callable[[Load], None]:
    """A case that signs in: the first time after the start, when each password is verified, and then as it goes on."""

    def run(load: Load) -> None:
        load.suffix = "-first"
        load.bench.CASES[name](load.args)
        load.suffix = ""
        load.bench.CASES[name](load.args)

    return run


def _once(name: str) -> Callable[[Load], None]:
    return lambda load: load.bench.CASES[name](load.args)


CASES: dict[str, Callable[[Load], None]] = {
    "smtp-in": _once("smtp-in"),
    "imap-append": _once("imap-append"),
    "imap-login": _twice("imap-login"),
    "imap-select": changing.select,
    "imap-fetch-meta": changing.fetch_meta,
    "imap-fetch-body": _once("imap-fetch-body"),
    "imap-store": _once("imap-store"),
    "imap-search": changing.search,
    "imap-sort": changing.sort,
    "imap-idle": _once("imap-idle"),
    "imap-mixed": _once("imap-mixed"),
    "pop3": _twice("pop3"),
}
DEFAULT_N = {"smtp-in": 3000, "imap-login": 1000}
"""At two to five thousand a second mailbench's own numbers last too short a time, for a start and an end to matter."""
DEFAULT_CONNS = {"smtp-in": (10, 50), "imap-append": (1, 10)}


def _args(order: Order) -> SimpleNamespace:
    """What mailbench's cases read their options from."""
    return SimpleNamespace(
        host="127.0.0.1",
        imap=order.imap_port,
        pop3=order.pop3_port,
        smtp=order.smtp_port,
        tls=False,
        ctx=None,
        user="u0",
        user_fmt="u{}",
        users=USERS,
        pop_user=9,
        password="pass",
        domain="bench.test",
        pid=[f"@{path}" for path in order.pid_files],
        restart_cmd=order.restart if order.is_cold else None,
        peer=order.peer,
        n=order.n,
        conns=list(order.conns),
        sizes=list(order.sizes),
        msg_sizes=list(order.msg_sizes),
        idle=list(order.idle),
        seconds=order.seconds,
        timeout=TIMEOUT_S,
        rep=order.repeat,
    )


def _mailbench(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("mailbench", folder / "mailbench.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "mailbench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """0; 1 after a wrong answer."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    fields: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
    order = Order(**fields)
    sys.dont_write_bytecode = True  # mailbench's folder may not be ours to write in
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    server = rest.Watched([Path(one) for one in order.pid_files], Path(order.data_dir) if order.data_dir else None)
    load = Load(order, _mailbench(Path(order.bench)), server, _args(order))
    load.patch()
    rest.wait(server)
    CASES[order.case](load)
    return 1 if load.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
