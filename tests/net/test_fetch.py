"""Documents by HTTP: what comes, and every way in which it does not."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pochta.errors import SetupError, TryLater
from pochta.net.fetch import Fetcher

LIMIT = 1000
Answerer = Callable[[bytes], str]


@pytest.fixture
def answering() -> Iterator[Answerer]:
    """`answering(octets)` is the URL of a server that sends them to one who asks, and then says nothing more."""
    open_: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(answer: bytes) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        open_.append(listening)

        def serve() -> None:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            open_.append(accepted)
            accepted.recv(65_536)
            accepted.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/a?b"

    yield start
    for one in open_:
        one.close()
    for thread in threads:
        thread.join()


def get(url: str, *, timeout_s: float = 20.0) -> bytes:
    async def work() -> bytes:
        fetcher = Fetcher(timeout_s=timeout_s)
        try:
            return await fetcher.get(url, limit_bytes=LIMIT)
        finally:
            fetcher.close()

    return asyncio.run(work())


def test_a_document(answering: Answerer) -> None:
    assert get(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")) == b"hi"
    whole = b"x" * LIMIT
    assert get(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + whole)) == whole
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    assert get(answering(chunked)) == b"hi"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "answered 404", id="not found"),
        pytest.param(b"HTTP/1.1 302 No\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "answered 302", id="elsewhere"),
        pytest.param(b"HTTP/1.1 204 No\r\n\r\n", "answered 204", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "SSH-2.0-OpenSSH", id="no web server"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, "more than 1000", id="large"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", "more than 100 headers", id="header"),
    ],
)
def test_what_is_refused(answering: Answerer, answer: bytes, why: str) -> None:
    with pytest.raises(TryLater, match=why):
        get(answering(answer))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"], ids=["silent", "in the middle"]
)
def test_silence_has_an_end(answering: Answerer, answer: bytes) -> None:
    with pytest.raises(TryLater):
        get(answering(answer), timeout_s=0.1)


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"])
def test_who_drips_keeps_no_other_question_waiting(answering: Answerer, begun: bytes) -> None:
    dripping = socket.create_server(("127.0.0.1", 0))
    has_ended = threading.Event()

    def drip() -> None:
        accepted, _ = dripping.accept()
        with accepted:
            accepted.recv(65_536)
            try:
                accepted.sendall(begun)
                while not has_ended.wait(0.01):
                    accepted.sendall(b"x")
            except OSError:
                return

    thread = threading.Thread(target=drip)
    thread.start()

    async def work() -> bytes:
        fetcher = Fetcher(timeout_s=0.2)
        try:
            with pytest.raises(TryLater):
                await fetcher.get(f"http://127.0.0.1:{dripping.getsockname()[1]}/", limit_bytes=LIMIT)
            url = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            return await fetcher.get(url, limit_bytes=LIMIT)
        finally:
            fetcher.close()

    try:
        assert asyncio.run(work()) == b"hi"
    finally:
        has_ended.set()
        thread.join()
        dripping.close()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://127.0.0.1:1/",
            "https://127.0.0.1:1/",
            "http:///x",
            "http://127.0.0.1:0/\n",
            "http://[",
            "http://a:b/",
        ),
    ],
)
def test_nobody_there(url: str) -> None:
    with pytest.raises(TryLater):
        get(url)


def test_authorities_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        with pytest.raises(SetupError, match=name):
            Fetcher(tmp_path / name)
