"""Search by the index, judged by a plain look through the text, while messages come in."""

import asyncio
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import pytest
from index_rig import Brute, Made, make, opened, query

from pochta.servers.imap.search import placing


async def judge(data_dir: Path, seed: int, messages: int, queries: int) -> None:
    """Half of the messages are there before the first query, the others come in and are indexed meanwhile."""
    rng = Random(seed)
    made: list[Made] = [make(rng, number) for number in range(messages)]
    brute = [Brute(one) for one in made]
    bench = await opened(data_dir)
    half = messages // 2
    await bench.append([one.raw for one in made[:half]])
    await bench.indexer.feed(bench.account_id)

    async def deliver() -> None:
        for start in range(half, messages, 40):
            await bench.append([one.raw for one in made[start : start + 40]])
            if rng.random() < 0.3:
                await bench.indexer.feed_some(bench.account_id)

    delivering = asyncio.get_running_loop().create_task(deliver())
    try:
        for _ in range(queries):
            key, view = query(rng, made), await bench.view()
            found = await bench.search(key, view=view)
            expected = [number for number in range(1, view.count + 1) if brute[number - 1].matches(key)]
            assert found == expected, f"seed {seed}: {key}"
        await delivering
        assert bench.count == messages
    finally:
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        await bench.close()


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize(("seed", "is_read"), [(1, True), (2, False)])
def test_index_finds_what_a_plain_look_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, is_read: bool
) -> None:
    if not is_read:  # the ids of the mailbox: each message named is looked up
        monkeypatch.setattr(placing, "READ_MIN", -1)
        monkeypatch.setattr(placing, "READ_SHARE", 0)
    asyncio.run(judge(tmp_path / "data", seed, 600, 300))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_index_finds_what_a_plain_look_finds_in_20_000_messages(tmp_path: Path) -> None:
    asyncio.run(judge(tmp_path / "data", 3, 20_000, 2000))
