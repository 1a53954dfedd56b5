"""Whole workers in this process: what their status sockets, `pochta status` and the metrics port tell of them."""

import asyncio
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from click.testing import CliRunner, Result

from pochta import config, log
from pochta.accounts import passwords
from pochta.app import App
from pochta.cli.main import root
from pochta.config import Limits, Listener, ListenerProtocol, ListenerTls, Settings
from pochta.errors import SetupError
from pochta.net.listen import bind_all
from pochta.servers import metrics
from pochta.servers.metrics import MAX_REQUEST_BYTES
from pochta.status.collect import collect
from pochta.store import setup

T = TypeVar("T")
CHEAP = passwords.Cost(memory_kib=8, passes=1)
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    def run_it(work: Coroutine[Any, Any, T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(20):
                return await work

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(limited())

    return run_it


@pytest.fixture(autouse=True)
def quiet() -> Iterator[list[str]]:
    """The lines logged."""
    lines: list[str] = []
    before = log.set_sink(lines.append)
    yield lines
    log.set_sink(before)


def settings(data_dir: Path) -> Settings:
    ports = [
        Listener(protocol=protocol, address="127.0.0.1:0")
        for protocol in (ListenerProtocol.IMAP, ListenerProtocol.SMTP, ListenerProtocol.METRICS)
    ]
    limits = Limits(min_free_bytes=0)
    return Settings(hostname="localhost", data_dir=data_dir, workers=2, listeners=tuple(ports), limits=limits)


@asynccontextmanager
async def serving(data_dir: Path, *, index: int = 0) -> AsyncIterator[tuple[App, dict[str, int]]]:
    """A worker, and its port for each protocol."""
    if not (data_dir / "pochta.db").exists():
        setup.create(data_dir)
    bound = bind_all(settings(data_dir).listeners)
    ports = {one.config.protocol.value: one.address[1] for one in bound}
    app = App(settings(data_dir), bound, index=index, password_cost=CHEAP)
    await app.start()
    try:
        yield app, ports
    finally:
        await app.stop()


async def ask(port: int, *parts: bytes) -> bytes:
    """All that the metrics port answers to `parts`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def status_sockets(data_dir: Path) -> list[str]:
    return [name for name in os.listdir(data_dir / "run") if "status" in name]


def test_one_json_object_and_the_end(tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def work() -> tuple[bytes, dict[str, int]]:
        async with serving(tmp_path) as (_, ports):
            (name,) = status_sockets(tmp_path)
            reader, writer = await asyncio.open_unix_connection(tmp_path / "run" / name)
            answer = await reader.read()
            writer.close()
            return answer, ports

    answer, ports = run(work())
    told = json.loads(answer)
    assert (told["pid"], told["worker"]) == (os.getpid(), 0)
    assert told["connections"] == {"imap": 0, "metrics": 0, "smtp": 0}
    lane = told["lane"]  # the secret of SRS was made
    assert {key: lane[key] for key in ("commits", "writes", "failures")} == {"commits": 1, "writes": 1, "failures": 0}
    assert lane["hold_p50_ms"] == lane["hold_p99_ms"] > 0
    assert told["listeners"][0] == {"protocol": "imap", "address": f"127.0.0.1:{ports['imap']}", "tls": "none"}
    assert told["wal_bytes"] >= 0
    assert told["free_disk_bytes"] > 0
    assert status_sockets(tmp_path) == []


def test_workers_are_summed(tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def work() -> None:
        async with serving(tmp_path) as (_, first), serving(tmp_path, index=1) as (_, second):
            peers = [await asyncio.open_connection("127.0.0.1", one["imap"]) for one in (first, second, second)]
            for reader, _ in peers:
                await reader.readline()
            status = await collect(tmp_path)
            assert [one.worker for one in status.workers] == [0, 1]
            assert [one.connections["imap"] for one in status.workers] == [1, 2]
            assert status.server is not None
            assert status.server.connections["imap"] == 3
            assert status.server.counters["imap_connections"] == 3
            assert status.silent == ()
            for _, writer in peers:
                writer.close()

    run(work())


def test_a_deep_data_folder(tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def work() -> int:
        async with serving(tmp_path / ("d" * 100) / ("e" * 100)):
            return len((await collect(tmp_path / ("d" * 100) / ("e" * 100))).workers)

    assert run(work()) == 1


def test_leftovers_are_removed(tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def work() -> tuple[int, int]:
        async with serving(tmp_path):
            for name in (f"{os.getpid()}-00.status", f"{2**31 - 1}-00.status"):
                with socket.socket(socket.AF_UNIX) as dead:
                    dead.bind(str(tmp_path / "run" / name))
            status = await collect(tmp_path)
            return len(status.workers), len(status.silent)

    setup.create(tmp_path)
    (tmp_path / "run" / f"{2**31 - 1}-01.status.part").touch()
    assert run(work()) == (1, 0)
    assert status_sockets(tmp_path) == []


@pytest.mark.parametrize("said", [b"", b"{", b'{"pid": "x"}'], ids=["nothing", "half", "nonsense"])
def test_a_worker_that_says_no_figures_is_silent(
    tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any], said: bytes
) -> None:
    async def work() -> tuple[int, ...]:
        def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            writer.close()

        async with await asyncio.start_unix_server(answer, tmp_path / "run" / "77-ab.status"):
            return (await collect(tmp_path)).silent

    setup.create(tmp_path)
    assert run(work()) == (77,)


def test_metrics_in_the_text_form(tmp_path: Path, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    async def work() -> bytes:
        async with serving(tmp_path) as (_, ports), serving(tmp_path, index=1):
            _, writer = await asyncio.open_connection("127.0.0.1", ports["smtp"])
            answer = await ask(ports["metrics"], *(bytes([octet]) for octet in GET))
            writer.close()
            return answer

    head, _, body = run(work()).decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
    assert f"Content-Length: {len(body)}\r\nConnection: close" in head
    lines = body.splitlines()
    assert "pochta_workers 2" in lines
    assert 'pochta_connections{protocol="metrics"} 1' in lines
    assert "# TYPE pochta_lane_commits_total counter" in lines
    assert not re.search("index=", body)
    form = re.compile(r"pochta_[a-z_]+(\{[a-z]+=\"[a-z0-9.]+\"\})? [0-9.e+-]+|# (HELP pochta_[a-z_]+ .+|TYPE .+)")
    assert [line for line in lines if not form.fullmatch(line)] == []
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(GET, b"503 Service Unavailable", id="a worker is silent"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found", id="other page"),
        pytest.param(b"GET /metrics2 HTTP/1.0\r\n\r\n", b"404 Not Found", id="longer name"),
        pytest.param(b"POST /metrics HTTP/1.1\r\n\r\n", b"404 Not Found", id="other method"),
        pytest.param(b"EHLO a\r\n\r\n", b"400 Bad Request", id="no HTTP"),
        pytest.param(b"\r\n\r\n", b"400 Bad Request", id="empty"),
        pytest.param(b"x" * MAX_REQUEST_BYTES, b"431 Request Header Fields Too Large", id="no end"),
    ],
)
def test_everything_else_is_refused(tmp_path: Path, request_bytes: bytes, status: bytes) -> None:
    async def work() -> bytes:
        def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with (
            serving(tmp_path) as (_, ports),
            await asyncio.start_unix_server(say_nothing, tmp_path / "run" / "77-ab.status"),
        ):
            return await ask(ports["metrics"], request_bytes)

    assert asyncio.run(work()).startswith(b"HTTP/1.1 " + status + b"\r\n")


@pytest.mark.parametrize(
    ("counter", "text"),
    [("imap_commands", "IMAP commands."), ("pop3_retrieved", "POP3 retrieved."), ("logins", "Logins.")],
)
def test_counters_are_named_in_words(counter: str, text: str) -> None:
    assert metrics._help(counter) == text


def test_stop_does_not_wait_for_who_asks_nothing(tmp_path: Path, quiet: list[str]) -> None:
    async def work() -> bytes:
        async with serving(tmp_path) as (app, ports):
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["metrics"])
            while not app.metrics_connections:
                await collect(tmp_path)
        answer = await reader.read()
        writer.close()
        return answer

    assert asyncio.run(work()) == b""
    assert not any("serve.drain.timeout" in line for line in quiet)


@pytest.mark.parametrize(
    ("address", "tls", "is_allowed"),
    [
        ("127.0.0.1:9180", "none", True),
        ("[::1]:9180", "none", True),
        ("*:9180", "none", False),
        ("192.0.2.1:9180", "none", False),
        ("127.0.0.1:9180", "implicit", False),
    ],
)
def test_metrics_on_loopback_only(tmp_path: Path, address: str, tls: str, is_allowed: bool) -> None:
    port = Listener(protocol=ListenerProtocol.METRICS, address=address, tls=ListenerTls(tls))
    path = tmp_path / "pochta.toml"
    path.write_text(config.initial_toml("mail.example.org", listeners=(port,)), encoding="utf-8")
    if is_allowed:
        assert config.load(path, check_files=False).listeners == (port,)
        return
    with pytest.raises(SetupError, match=r'listener 1: "metrics" asks for no password; listen on "127\.0\.0\.1:9180"'):
        config.load(path, check_files=False)


def invoke(folder: Path, *words: str) -> Result:
    """`pochta status` on a store that lives in `folder`."""
    path = folder / "pochta.toml"
    path.write_text(config.initial_toml("mail.example.org", data_dir="data"), encoding="utf-8")
    return CliRunner().invoke(root, ["-c", str(path), "status", *words], prog_name="pochta")


def test_command_without_a_server(tmp_path: Path) -> None:
    result = invoke(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    why = f"pochta: {tmp_path}/data: no server runs; see its log, or start it with `pochta serve`\n"
    assert result.stderr == why


def test_command_shows_a_table_and_json(tmp_path: Path) -> None:
    async def work() -> tuple[Result, Result, dict[str, int]]:
        async with serving(tmp_path / "data") as (_, ports):
            table = await asyncio.to_thread(invoke, tmp_path)
            return table, await asyncio.to_thread(invoke, tmp_path, "--json"), ports

    table, as_json, ports = asyncio.run(work())
    assert (table.exit_code, as_json.exit_code) == (0, 0)
    assert f"imap 127.0.0.1:{ports['imap']}\n" in "".join(f"{line.rstrip()}\n" for line in table.stdout.splitlines())
    assert re.search(r"^connections +imap 0, metrics 0, smtp 0 *$", table.stdout, re.MULTILINE)
    assert re.search(r"^index lag +(none|unknown: nobody feeds the text index.*) *$", table.stdout, re.MULTILINE)
    for head in ("lane hold", "loop lag", "index lag", "WAL size", "free disk", "background"):
        assert f"\n{head}" in table.stdout
    told = json.loads(as_json.stdout)
    assert told["server"]["index_lag"] in (None, {"accounts": 0, "messages": 0, "seconds": 0.0})
    assert [one["pid"] for one in told["workers"]] == [os.getpid()]
    assert told["silent"] == []
