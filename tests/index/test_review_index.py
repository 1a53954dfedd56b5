"""What a review of the text index found: answers that differed from reading, files taken for others, lists too long."""

import asyncio
from array import array
from pathlib import Path

import pytest
from test_index_feed import agree, body, fed, message, path_of

from pochta.index import file, rebuild
from pochta.index.reader import Question
from pochta.mime.parse import parse
from pochta.mime.searched import PIECE_BYTES
from pochta.proto.imap import commands as c
from pochta.servers.imap.search import narrowing, placing
from pochta.servers.imap.search import text as search_text
from pochta.servers.imap.search.text import Needle, find_in_message, needle


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize("name", ["x-tag: first", "x-tag:", "x tag", "", "x-tag\nx-tag"])
@pytest.mark.parametrize("text", ["second", "", "first"])
def test_a_name_that_no_field_can_have_is_found_nowhere(tmp_path: Path, name: str, text: str) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", b"X-Tag: first: second\r\nSubject: x\r\n\r\ntext\r\n") as bench:
            assert await agree(bench, c.SearchHeader(name, text)) == []

    asyncio.run(work())


def found_in(raw: bytes, *texts: str) -> int:
    needles = [needle(text, in_header=False) for text in texts]
    return list(find_in_message(lambda start, stop: raw[start:stop], parse(raw), needles))[-1]


def html(text: str) -> bytes:
    return b"Content-Type: text/html; charset=utf-8\r\n\r\n" + text.encode()


OTHERS = tuple(f"nothing {number}" for number in range(search_text.NEEDLES_PER_PIECE * 2))
"""Needles that make pieces smaller."""


@pytest.mark.parametrize("before", range(-16, 2))
def test_a_character_reference_on_the_edge_of_a_piece_is_replaced(before: int) -> None:
    raw = html("x" * (PIECE_BYTES // 3 + before) + "Tom &amp; Jerry" + "y" * PIECE_BYTES)
    assert found_in(raw, "tom & jerry", *OTHERS) == 1


@pytest.mark.parametrize("before", range(10, 18))
def test_a_text_goes_on_in_a_piece_without_references(before: int) -> None:
    raw = html("x" * (PIECE_BYTES - before) + "Tom &amp; Jerry" + "y" * 100)
    assert found_in(raw, "tom & jerry", "tom &amp; jerry") == 3


def test_a_loose_needle_goes_over_edges() -> None:
    raw = html("x" * (PIECE_BYTES - 3) + "e\u0301te\u0301" + "y" * 100)
    loose = [Needle("ete", "ete", in_header=False, is_loose=True)]
    assert list(find_in_message(lambda start, stop: raw[start:stop], parse(raw), loose))[-1] == 1


def test_a_file_made_anew_under_the_name_of_another_is_read(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b", "yak")) as bench:
            assert await agree(bench, body("zebra")) == [1]  # the searcher has it open
            # as a feeder does with a file that lacks messages
            path = path_of(bench)
            file.discard(path)
            await bench.append([message("c", "zebra")])
            bench.indexer.close(wait=True)
            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id) == 3
            last_id = (await rebuild.standing(bench.store, bench.data_dir, bench.account_id)).indexed
            found = await bench.searcher.ask(bench.store, bench.account_id, [narrowing._question(body("zebra"))])  # type: ignore[list-item]
            assert last_id == 3
            assert found is not None
            assert len(found.answers[0].sure) == 2

    asyncio.run(work())


def test_a_feeder_lets_go_of_a_file_that_was_replaced_under_its_name(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra")) as bench:
            file.discard(path_of(bench))
            assert await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id) == 1
            await bench.append([message("b", "zebra")])
            await bench.indexer.feed(bench.account_id)
            standing = await rebuild.standing(bench.store, bench.data_dir, bench.account_id)
            assert (standing.indexed, standing.waiting) == (2, 0)

    asyncio.run(work())


def test_of_very_many_keys_some_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra"), message("b", "yak")) as bench:
            known = bench.searcher.ask

            async def ask(store: object, account_id: int, questions: "list[Question]") -> object:
                asked.append(len(questions))
                return await known(bench.store, account_id, questions)

            monkeypatch.setattr(bench.searcher, "ask", ask)
            keys = c.SearchOr(tuple(body(f"nothing{number}") for number in range(1000)))
            assert await agree(bench, keys) == []
            keys = c.SearchOr((*keys.keys, body("yak")))
            assert await agree(bench, keys) == [2]

    asyncio.run(work())
    assert sum(asked) <= 2 * narrowing.QUESTIONS_MAX
    assert max(asked) <= narrowing.QUESTIONS_AT_ONCE


@pytest.mark.parametrize("later_max", [4, 100])
def test_what_is_not_indexed_is_found_in_any_mailbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later_max: int
) -> None:
    monkeypatch.setattr(placing, "READ_MIN", -1)
    monkeypatch.setattr(placing, "READ_SHARE", 0)
    monkeypatch.setattr(placing, "IDS", 5)
    monkeypatch.setattr(placing, "LATER_MAX", later_max)

    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra")) as bench:
            await bench.append([message("b", "zebra" if number % 2 else "yak") for number in range(9)])
            assert await agree(bench, body("zebra")) == [1, 3, 5, 7, 9]
            view = await bench.view()
            await bench.expunge(3)
            assert await bench.search(body("zebra"), view=view) == [1, 3, 5, 7, 9]

    asyncio.run(work())


def test_answers_take_eight_octets_a_message(tmp_path: Path) -> None:
    async def work() -> None:
        async with fed(tmp_path / "data", message("a", "zebra")) as bench:
            found = await bench.searcher.ask(bench.store, bench.account_id, [narrowing._question(body("zebra"))])  # type: ignore[list-item]
            assert found is not None
            assert all(isinstance(ids, array) for ids in found.answers[0])

    asyncio.run(work())
