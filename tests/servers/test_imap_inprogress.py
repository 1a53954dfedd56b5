"""INPROGRESS: what a client hears while a long command goes on."""

import asyncio
import re
from collections.abc import Iterator

import pytest
from imap_raw import USER, Imap, message

from pochta import clock
from pochta.errors import Refusal, RefusalCode
from pochta.servers.imap.progress import PERIOD_S, Progress
from pochta.testing import Server

COUNT = 2300
_TOLD = re.compile(rb'\* OK \[INPROGRESS \("(t\d+)" (\d+) (\d+)\)\] .+')


class Connection:
    """What `Progress` asks of a connection."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.flushes = 0

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    async def flush(self) -> None:
        self.flushes += 1


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by the test."""
    at = [1000.0]
    monkeypatch.setattr(clock.current(), "monotonic", lambda: at[0])
    return at


def tell(progress: Progress, done: int, goal: int | None = None) -> None:
    asyncio.run(progress.tell(done, goal))


@pytest.mark.rfc(9585, "4")
def test_the_first_word_comes_after_the_period_and_then_one_a_period(now: list[float]) -> None:
    connection = Connection()
    progress = Progress(connection)  # type: ignore[arg-type]  # a stand-in
    progress.begin(b"A1")
    for done in range(100):
        tell(progress, done, 1000)
        now[0] += 0.25
    assert connection.sent == [b'* OK [INPROGRESS ("A1" %d 1000)] Still working on it\r\n' % done for done in (40, 80)]
    assert connection.flushes == 2
    progress.begin(b"A2")
    tell(progress, 1, 1000)
    assert len(connection.sent) == 2


@pytest.mark.rfc(9585, "4")
@pytest.mark.parametrize(
    ("tag", "done", "goal", "code"),
    [
        (b"A1", 5, 9, b'("A1" 5 9)'),
        (b"A1", 0, 9, b'("A1" 0 9)'),
        (b"A1", 5, None, b'("A1" 5 NIL)'),
        (b"A]", 5, 9, b"(NIL 5 9)"),
        (b"A1", 9, 9, b""),
        (b"A1", 10, 9, b""),
        (b"A1", 0, 0, b""),
    ],
    ids=["both", "begun", "no goal", "tag", "done", "more", "nothing to do"],
)
def test_what_is_told(now: list[float], tag: bytes, done: int, goal: int | None, code: bytes) -> None:
    connection = Connection()
    progress = Progress(connection)  # type: ignore[arg-type]  # a stand-in
    progress.begin(tag)
    now[0] += PERIOD_S
    tell(progress, done, goal)
    assert connection.sent == ([b"* OK [INPROGRESS %b] Still working on it\r\n" % code] if code else [])


@pytest.mark.rfc(9585, "4")
def test_what_is_done_at_once_is_told_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pochta.servers.imap.progress.PERIOD_S", 0.0)
    connection = Connection()
    progress = Progress(connection)  # type: ignore[arg-type]  # a stand-in
    progress.begin(b"A1")

    async def main() -> str:
        work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(progress.during(work, 9))
        while connection.flushes < 3:
            await asyncio.wait([running], timeout=0.01)
        work.set_result("done")
        return await running

    assert asyncio.run(main()) == "done"
    assert set(connection.sent) == {b'* OK [INPROGRESS ("A1" 0 9)] Still working on it\r\n'}


def test_what_is_done_at_once_ends_with_its_connection() -> None:
    progress = Progress(Connection())  # type: ignore[arg-type]  # a stand-in
    progress.begin(b"A1")

    async def main() -> bool:
        work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(progress.during(work, 9))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return work.cancelled()

    assert asyncio.run(main())


def test_a_failure_comes_through() -> None:
    progress = Progress(Connection())  # type: ignore[arg-type]  # a stand-in
    progress.begin(b"A1")

    async def main() -> None:
        work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        work.set_exception(Refusal(RefusalCode.NOT_FOUND, "No"))
        await progress.during(work, 9)

    with pytest.raises(Refusal, match="No"):
        asyncio.run(main())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        running.add_account(USER, "secret")
        with Imap(running, mailbox=None) as imap:
            one = message(1)
            for _ in range(4):
                texts = [b"{%d+}\r\n%b" % (len(one), one) for _ in range(COUNT // 4)]
                assert imap.do(b"APPEND INBOX " + b" ".join(texts))[-1].startswith(b"OK")
        yield running


def told(lines: list[bytes]) -> list[tuple[bytes, int, int]]:
    found = [match for line in lines if (match := _TOLD.fullmatch(line))]
    return [(match[1], int(match[2]), int(match[3])) for match in found]


def test_quick_commands_tell_nothing(server: Server) -> None:
    with Imap(server) as imap:
        for command in ("SEARCH BODY body", "STORE 1:* +FLAGS.SILENT (\\Answered)"):
            assert not any(b"INPROGRESS" in line for line in imap.do(command))


@pytest.mark.rfc(9585, "3")
def test_inprogress_tells_how_far_long_commands_have_come(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pochta.servers.imap.progress.PERIOD_S", 0.0)
    with Imap(server) as imap:
        assert b" INPROGRESS" in imap.ok("CAPABILITY")[0]
        imap.ok("CREATE moved")
        for command, goal in (
            ("SEARCH SUBJECT nothing", COUNT),
            ("STORE 1:* +FLAGS.SILENT (\\Seen)", 100),
            ("MOVE 1:1200 moved", 1200),
            ("STORE 1:* +FLAGS.SILENT (\\Deleted)", 100),
            ("EXPUNGE", COUNT - 1200),
        ):
            lines = imap.do(command)
            assert lines[-1].startswith(b"OK"), lines[-1]
            assert b"INPROGRESS" not in lines[-1]
            states = told(lines)
            assert len(states) >= 2, (command, states)
            assert {state[2] for state in states} == {goal}
            assert {state[0] for state in states} == {b"t%d" % imap.tags}
            done = [state[1] for state in states]
            assert done == sorted(done)
            assert done[-1] < goal


def test_renaming_inbox_tells_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add_account("bert@example.org", "secret")
    with Imap(server, user="bert@example.org") as imap:
        one = message(1)
        imap.do(b"APPEND INBOX " + b" ".join([b"{%d+}\r\n%b" % (len(one), one)] * 1000))
        imap.do(b"APPEND INBOX " + b" ".join([b"{%d+}\r\n%b" % (len(one), one)] * 200))
        monkeypatch.setattr("pochta.servers.imap.progress.PERIOD_S", 0.0)
        states = told(imap.do("RENAME INBOX old"))
        assert states
        assert states[-1][1] < states[-1][2] == 1200
