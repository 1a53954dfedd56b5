"""Where the messages stand that the index names: views that live on while messages come, go and change places."""

import asyncio
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again

import apsw
import pytest
from index_rig import NOW, Bench, opened
from test_index_feed import agree, body, fed, message

from pochta.index import reader, rebuild
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search import placing
from pochta.servers.imap.views import Views
from pochta.store import changes, mailboxes, placements
from pochta.store.messages import UID_LIMIT
from pochta.store.tx import Tx

WORDS = ("zebra", "yak", "wombat")
EVERY_WAY = pytest.mark.parametrize("is_read", [True, False], ids=["ids kept", "looked up"])


def choose(monkeypatch: pytest.MonkeyPatch, *, is_read: bool) -> None:
    """Keep the ids of all messages, or none."""
    monkeypatch.setattr(placing, "READ_SHARE", 1 << 30 if is_read else 0)
    monkeypatch.setattr(placing, "READ_MIN", 1 << 30 if is_read else -1)


class World:
    """A mailbox with its sessions' views, and what each of its messages says."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench = bench
        self.rng = Random(seed)
        self.views = Views(bench.store, memory_limit_bytes=1 << 26)
        self.said: dict[int, str] = {}  # by uid, of removed messages too
        self.here: list[int] = []
        self.sessions: list[Snapshot] = []

    @property
    def _mailbox(self) -> tuple[int, int]:
        return self.bench.account_id, self.bench.mailbox_id

    async def begin(self) -> None:
        await self.bench.store.write(0, mailboxes.create, self.bench.account_id, "Other", NOW)

    def _arrive(self, uids: "range | tuple[int, ...]", words: list[str]) -> None:
        self.said.update(zip(uids, words, strict=True))
        self.here.extend(uids)

    async def append(self) -> None:
        words = [self.rng.choice(WORDS) for _ in range(self.rng.randint(1, 40))]
        first = max(self.said, default=0) + 1
        await self.bench.append([message("m", word) for word in words])
        self._arrive(range(first, first + len(words)), words)

    async def expunge(self) -> None:
        for uid in self.rng.sample(self.here, min(len(self.here), 7)):
            await self.bench.expunge(uid)
            self.here.remove(uid)

    async def copy(self) -> None:
        """Put messages into the mailbox that they stand in."""
        uids = sorted(self.rng.sample(self.here, min(len(self.here), 9)))
        args = (*self._mailbox, changes.ranges_of(uids), "INBOX", NOW)
        copied = await self.bench.store.write(0, placements.copy, *args)
        self._arrive(copied.to_uids, [self.said[uid] for uid in copied.from_uids])

    async def move(self) -> None:
        """Away and back, one after the other: the ids do not rise any more."""
        uids = self.rng.sample(self.here, min(len(self.here), 5))
        other = await self.bench.store.read(0, mailboxes.find, self.bench.account_id, "Other")
        for uid in uids:
            await self.bench.store.write(0, placements.move, *self._mailbox, ((uid, uid),), "Other", NOW)
            args = (self.bench.account_id, other.id, ((1, UID_LIMIT),), "INBOX", NOW)
            moved = await self.bench.store.write(0, placements.move, *args)
            self.here.remove(uid)
            self._arrive(moved.to_uids, [self.said[uid]])

    async def flag(self) -> None:
        uid = self.rng.choice(self.here)
        args = (*self._mailbox, ((uid, uid),), placements.FlagMode.ADD, 4, (), NOW)
        await self.bench.store.write(0, placements.set_flags, *args)

    async def feed(self) -> None:
        await self.bench.indexer.feed(self.bench.account_id)

    async def look(self) -> None:
        """A session sees what there is; some stay with what they have seen."""
        self.sessions.append(await self.views.current(self.views.view(*self._mailbox)))
        if len(self.sessions) > 3:
            del self.sessions[self.rng.randrange(3)]

    async def judge(self) -> None:
        for view in self.sessions:
            for word in (self.rng.choice(WORDS), "nothing"):
                uids = [uid for chunk in view.chunks for uid in chunk.uids]
                expected = [seq for seq, uid in enumerate(uids, 1) if self.said[uid] == word]
                assert await self.bench.search(body(word), view=view) == expected


@EVERY_WAY
@pytest.mark.parametrize("seed", range(4))
def test_views_that_live_on_find_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, is_read: bool
) -> None:
    monkeypatch.setattr("pochta.proto.imap.view.CHUNK_MESSAGES", 16)
    choose(monkeypatch, is_read=is_read)

    async def work() -> None:
        bench = await opened(tmp_path / "data")
        try:
            world = World(bench, seed)
            await world.begin()
            await world.append()
            await world.look()
            steps = (world.append, world.append, world.expunge, world.copy, world.move, world.flag, world.feed)
            for _ in range(60):
                await world.rng.choice(steps)()
                if len(world.here) < 10:
                    await world.append()
                await world.look()
                await world.judge()
        finally:
            await bench.close()

    asyncio.run(work())


@EVERY_WAY
def test_a_message_that_is_kept_no_more_is_found_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read: bool
) -> None:
    choose(monkeypatch, is_read=is_read)

    async def work() -> None:
        async with fed(tmp_path / "data", *[message("m", "zebra")] * 3) as bench:
            view = await bench.view()
            await bench.expunge(2)
            assert await bench.search(body("zebra"), view=view) == [1, 2, 3]
            await bench.store.write(0, forget_removed)
            fresh = Snapshot.of(view.chunks[0].uids, view.chunks[0].flags, 1)
            assert await bench.search(body("zebra"), view=fresh) == [1, 3]
            assert await agree(bench, body("zebra")) == [1, 2]

    asyncio.run(work())


def forget_removed(tx: Tx) -> None:
    tx.run("DELETE FROM removed")


def test_ids_are_read_once_and_only_of_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pochta.proto.imap.view.CHUNK_MESSAGES", 10)
    read: list[int] = []
    known = placing._read_ids

    def counted(*args: object) -> object:
        read.append(1)
        return known(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(placing, "_read_ids", counted)

    async def work() -> None:
        async with fed(tmp_path / "data", *[message("m", "zebra")] * 45) as bench:
            views = Views(bench.store, memory_limit_bytes=1 << 20)
            view = views.view(bench.account_id, bench.mailbox_id)
            for expected in (5, 0):
                read.clear()
                assert len(await bench.search(body("zebra"), view=await views.current(view))) == 45
                assert len(read) == expected
            await bench.append([message("m", "zebra")])
            read.clear()
            assert len(await bench.search(body("zebra"), view=await views.current(view))) == 46
            assert len(read) == 1

    asyncio.run(work())


def test_an_answer_is_kept_until_there_is_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[object] = []
    known = reader._answer

    def counted(connection: apsw.Connection, question: reader.Question, last_id: int) -> reader.Answer:
        answered.append(question)
        return known(connection, question, last_id)

    monkeypatch.setattr(reader, "_answer", counted)

    async def work() -> None:
        async with fed(tmp_path / "data", message("m", "zebra"), message("m", "yak")) as bench:
            for _ in range(2):
                assert await bench.search(body("zebra")) == [1]
                assert await bench.search(body("nothing")) == []
            assert len(answered) == 2
            await bench.append([message("m", "zebra")])
            assert await bench.search(body("zebra")) == [1, 3]
            assert len(answered) == 2
            await bench.indexer.feed(bench.account_id)
            for _ in range(2):
                assert await bench.search(body("zebra")) == [1, 3]
            assert len(answered) == 3
            for number in range(reader.KEPT_ANSWERS + 1):
                assert await bench.search(body(f"nothing{number}")) == []
            assert await bench.search(body("zebra")) == [1, 3]
            assert len(answered) == 3 + reader.KEPT_ANSWERS + 2
            await rebuild.rebuild(bench.store, bench.data_dir, bench.account_id)
            assert await bench.search(body("zebra")) == [1, 3]
            assert len(answered) == 3 + reader.KEPT_ANSWERS + 3

    asyncio.run(work())
