"""What feeds the index: messages that come and go, files that are damaged, old, or of another store."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from index_rig import NOW, Bench, opened

from pochta import log
from pochta.index import apart, feed, file, rebuild, source, texts
from pochta.proto.imap import commands as c
from pochta.store.sqlite import SqliteTx
from pochta.store.sweep import RETENTION_MIN_S, Sweeper
from pochta.store.tx import Tx


def message(subject: str, body: str = "text", *, html: bool = False) -> bytes:
    kind = "html" if html else "plain"
    head = f"Subject: {subject}\r\nMIME-Version: 1.0\r\nContent-Type: text/{kind}; charset=utf-8\r\n\r\n"
    return f"{head}{body}\r\n".encode()


def body(text: str) -> c.SearchText:
    return c.SearchText(c.TextScope.BODY, text)


def subject(text: str) -> c.SearchHeader:
    return c.SearchHeader("subject", text)


@asynccontextmanager
async def fed(data_dir: Path, *raws: bytes) -> AsyncIterator[Bench]:
    bench = await opened(data_dir)
    try:
        await bench.append(raws)
        await bench.indexer.feed(bench.account_id)
        yield bench
    finally:
        await bench.close()


def no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be found by reading."""

    def refuse(*_: object) -> None:
        raise AssertionError("a message was opened")

    monkeypatch.setattr("pochta.servers.imap.search.facts.find_in_message", refuse)


async def agree(bench: Bench, key: c.SearchKey) -> list[int]:
    """What is found by the index, which must be what is found by reading."""
    found = await bench.search(key)
    assert found == await bench.search(key, has_index=False), key
    return found


def path_of(bench: Bench) -> Path:
    path = file.current(bench.data_dir / "index", bench.account_id)
    assert path is not None
    return path


def test_index_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("one", "the zebrafish"), message("two", "nothing")) as bench:
            no_scan(monkeypatch)
            assert await bench.search(body("zebra")) == [1]
            assert await bench.search(c.SearchNot(body("zebra"))) == [2]
            assert await bench.search(c.SearchText(c.TextScope.TEXT, "TWO")) == [2]
            assert await bench.search(body("z")) == [1]
            assert await bench.search(c.SearchOr((body("ebr"), subject("tw")))) == [1, 2]

    asyncio.run(work())


@pytest.mark.parametrize(
    "text",
    [
        'say "hi" AND',
        "a*b",
        "NEAR(x y)",
        "100%",
        "x\x01y",
        "\U0001f600\U0001f601\U0001f602",
        "ß",
        "会議",
        "-w^",
        "''",
        "\ufffe",
    ],
)
def test_every_character_is_found(tmp_path: Path, text: str) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("odd", f"before {text} behind"), message("plain")) as bench:
            for start in range(len(text)):
                assert await agree(bench, body(text[start:])) == [1]
            assert await agree(bench, body(f"before {text} behind")) == [1]
            assert await agree(bench, body(f"before {text}{text}")) == []

    asyncio.run(work())


def test_edges_of_fields_and_parts_are_no_text(tmp_path: Path) -> None:
    raw = b"To: ab\r\nTo: cd\r\nX-A: list-id: no\r\nSubject: ef\r\n\r\ngh\r\n"

    async def work() -> None:
        async with fed(tmp_path / "data", raw) as bench:
            for text in ("b\0c", "bc", "b c"):
                assert await agree(bench, c.SearchHeader("to", text)) == []
            assert await agree(bench, c.SearchHeader("to", "cd")) == [1]
            assert await agree(bench, c.SearchHeader("list-id", "")) == []
            assert await agree(bench, c.SearchHeader("x-a", "LIST-ID: n")) == [1]
            assert await agree(bench, c.SearchHeader("x-a", "")) == [1]
            assert await agree(bench, c.SearchText(c.TextScope.TEXT, "to: cd")) == [1]

    asyncio.run(work())


def test_field_that_stands_twice(tmp_path: Path) -> None:
    raws = (b"X-Tag: one\r\nX-Tag: second\r\n\r\n", b"X-Tag: one\r\nX-Other: second\r\n\r\n", b"X-Tag: second\r\n\r\n")

    async def work() -> None:
        async with fed(tmp_path / "data", *raws) as bench:
            assert await agree(bench, c.SearchHeader("x-tag", "second")) == [1, 3]
            assert await agree(bench, c.SearchHeader("x-tag", "o")) == [1, 2, 3]

    asyncio.run(work())


def test_what_is_too_long_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "INDEXED_CHARS", 4000)
    monkeypatch.setattr(file, "KEPT_CHARS", 1000)
    long = "lorem ipsum " * 200
    raws = (
        message("kept", "short zebra"),
        message("left out", f"{long}zebra"),
        message("cut", f"{long}{long}zebra"),
        message(f"{'many words ' * 2000}zebra", "x"),
        message("other", long),
    )

    async def work() -> None:
        async with fed(tmp_path / "data", *raws) as bench:
            assert await agree(bench, body("zebra")) == [1, 2, 3]
            assert await agree(bench, c.SearchText(c.TextScope.TEXT, "zebra")) == [1, 2, 3, 4]
            assert await agree(bench, subject("zebra")) == [4]
            assert await agree(bench, c.SearchNot(body("zebra"))) == [4, 5]
            assert await agree(bench, body("ze")) == [1, 2, 3]

    asyncio.run(work())


def test_html_is_found_with_and_without_references(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("h", "<p>caf&eacute; &amp; bar</p>", html=True)) as bench:
            for text in ("café & b", "caf&eacute;", "<p>"):
                assert await agree(bench, body(text)) == [1]

    asyncio.run(work())


def test_copies_and_removed_messages_of_an_old_view(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b", "zebra")) as bench:
            view = await bench.view()
            await bench.expunge(1)
            assert await bench.search(body("zebra"), view=view) == [1, 2]
            assert await bench.search(body("zebra")) == [1]

    asyncio.run(work())


def test_removed_message_leaves_the_index(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b", "zebra"), message("c")) as bench:
            view = await bench.view()
            await bench.expunge(1)
            await Sweeper(bench.store, retention_s=RETENTION_MIN_S).run_once(NOW + 2 * RETENTION_MIN_S)
            # lost: it matches nothing, not even NOT
            assert await bench.search(c.SearchNot(body("nowhere")), view=view) == [2, 3]
            await bench.indexer.compare()
            standing = await rebuild.standing(bench.store, bench.data_dir, bench.account_id)
            assert (standing.indexed, standing.waiting, standing.fault) == (2, 0, None)
            assert await agree(bench, body("zebra")) == [1]

    asyncio.run(work())


def damage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def age(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET number = number + 1 WHERE name = 'version'")
    connection.close()


def belong_to_another(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET number = number - 1 WHERE name = 'account_created_at'")
    connection.close()


def differ(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE entry SET received_at = received_at + 1")
    connection.close()


def run_ahead(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE meta SET number = number + 1000 WHERE name = 'last_id'")
    connection.close()


def remove(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("harm", [damage, age, belong_to_another, differ, run_ahead, remove])
def test_file_of_no_use_is_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    lines: list[str] = []

    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b")) as bench:
            await bench.search(body("zebra"))
            bench.let_go()
            harm(path_of(bench))
            assert await bench.search(body("zebra")) == [1]  # by reading
            if harm is not remove and harm is not damage:
                assert [path for path, _ in faults(bench)] == [path_of(bench)]
            await bench.indexer.feed(bench.account_id)
            assert faults(bench) == []
            standing = await rebuild.standing(bench.store, bench.data_dir, bench.account_id)
            assert (standing.indexed, standing.fault) == (2, None)
            assert await agree(bench, body("zebra")) == [1]

    before = log.set_sink(lines.append)
    try:
        asyncio.run(work())
    finally:
        log.set_sink(before)
    assert any("index.discarded" in line for line in lines) is (harm is not remove)


def faults(bench: Bench) -> list[tuple[Path, str]]:
    connection = apsw.Connection(str(bench.data_dir / "pochta.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        tx = SqliteTx(connection, 0)
        return rebuild.faults(bench.data_dir, lambda witness: source.fits(tx, witness))
    finally:
        connection.close()


def test_rebuilt_while_it_is_used(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b")) as bench:
            assert await bench.search(body("zebra")) == [1]
            before = path_of(bench)
            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id) == 2
            assert path_of(bench) != before
            assert [one.name for one in before.parent.iterdir() if one.suffix == ".db"] == ["2.db"]
            assert await bench.search(body("zebra")) == [1]
            await bench.append([message("c", "zebra")])
            assert await bench.search(body("zebra")) == [1, 3]
            await bench.indexer.feed(bench.account_id)
            standing = await rebuild.standing(bench.store, bench.data_dir, bench.account_id)
            assert (standing.messages, standing.indexed, standing.waiting) == (3, 3, 0)

    asyncio.run(work())


async def until(is_true: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(20):
        while not await is_true():  # noqa: ASYNC110 - the file is another process's, nobody tells
            await asyncio.sleep(0.01)


def test_running_feeder_follows_what_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "GATHER_S", 0.0)

    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra")) as bench:
            assert bench.indexer.lag() is None  # it has not looked yet
            running = asyncio.get_running_loop().create_task(bench.indexer.run())
            gone = bench.data_dir / "index" / "999"
            for number in range(5):
                await bench.append([message("b", f"zebra {number}")])

                async def is_indexed() -> bool:
                    standing = await rebuild.standing(bench.store, bench.data_dir, bench.account_id)
                    return standing.indexed == standing.messages and bench.indexer.lag() == feed.Lag(0, 0, 0.0)

                await until(is_indexed)
            assert not gone.exists()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    (tmp_path / "data" / "index" / "999").mkdir(parents=True)
    asyncio.run(work())


def test_account_without_messages_gets_no_file_until_one_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "GATHER_S", 0.0)

    async def work() -> None:
        async with fed(tmp_path / "data") as bench:
            folder = bench.data_dir / "index"
            assert file.account_ids(folder) == []
            assert await agree(bench, body("zebra")) == []
            running = asyncio.get_running_loop().create_task(bench.indexer.run())

            async def is_at_rest() -> bool:
                return bench.indexer.lag() == feed.Lag(0, 0, 0.0)

            await until(is_at_rest)
            assert file.account_ids(folder) == []
            await bench.append([message("a", "zebra")])

            async def is_indexed() -> bool:
                return (await rebuild.standing(bench.store, bench.data_dir, bench.account_id)).indexed == 1

            await until(is_indexed)
            assert await agree(bench, body("zebra")) == [1]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(work())


def test_removed_account_takes_its_index_along(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a")) as bench:
            folder = path_of(bench).parent
            await bench.store.write(0, _remove_account, bench.account_id)
            await bench.indexer.feed(bench.account_id)
            assert not folder.exists()

    asyncio.run(work())


def _remove_account(tx: Tx, account_id: int) -> None:
    tx.run("UPDATE account SET removed_at = 1, local_part = NULL WHERE id = ?", (account_id,))


def test_process_of_its_own_feeds_and_ends(tmp_path: Path) -> None:
    async def work() -> None:
        bench = await opened(tmp_path / "data")
        await bench.append([message("a", "zebra")])
        feeding = apart.IndexProcess(bench.data_dir)
        running = asyncio.get_running_loop().create_task(feeding.run())

        async def is_indexed() -> bool:
            standing = await rebuild.standing(bench.store, bench.data_dir, bench.account_id)
            return standing.indexed == 1

        try:
            await until(is_indexed)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await bench.close()

    asyncio.run(work())
