"""The walk of tests/model on a server of processes, whose workers are killed (kill -9) in between.

Whatever was answered before is there afterwards, flags too (INV-1): every session that lost its connection comes back,
by QRESYNC with what it knew or from scratch, and must hold what the model holds. One of them has an APPEND under way at
the kill, which was carried out as a whole or not at all, and in any case if it was answered.
"""

import asyncio
import itertools
import os
import subprocess
from pathlib import Path
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again
from typing import Final, cast

import pytest
from crash_server import DOMAIN, PASSWORD, ServerProcess, inodes_by_peer_port, sockets_of

from model import scenes, steps
from model.checks import message
from model.client import Condition, Connection, Statused, parse
from model.session import Session
from model.walk import Walk, status_of
from model.workers import Workers
from model.world import INBOX
from pochta.store import check
from pochta.store.invariants import Severity

LOCAL_PARTS: Final = ("anna", "bert", "cleo")
STEPS_BETWEEN: Final = 80
KILLS: Final = 10  # the supervisor waits longer and longer before it replaces a worker
LEAST_RETURNS: Final = 20  # of sessions, in a run: half of them sit in the worker that is killed


class Processes:
    """What a walk needs of its workers: here a server that runs elsewhere."""

    def __init__(self, server: ServerProcess) -> None:
        self.addresses = [server.imap] * steps.WORKERS
        self.administrator: int | None = None
        self.bugs: list[BaseException] = []
        self._command = server.command

    async def set_quota(self, worker: int, address: str, messages: int) -> None:
        """Bound how many messages the account may hold, as an administrator does."""
        words = self._command("account", "quota", address, "--messages", str(messages) if messages else "none")
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    async def deliver(self, worker: int, account: int, text: bytes) -> bool:
        """A message arrives, by APPEND: how mail comes in is not the question here."""
        connection = await Connection.open(self.addresses[worker])
        await connection.ok(f"LOGIN {LOCAL_PARTS[account]}@{DOMAIN} {PASSWORD}".encode())
        answer = await connection.command(b"APPEND INBOX {%d+}\r\n%b" % (len(text), text))
        connection.close()
        assert answer.end.status == "OK" or answer.end.code == "OVERQUOTA", answer.end
        return answer.end.status == "OK"


class Killing:
    """A walk, and the worker processes under it."""

    def __init__(self, server: ServerProcess, seed: int) -> None:
        self.server = server
        self.random = Random(seed)
        accounts = [(f"{name}@{DOMAIN}", number) for number, name in enumerate(LOCAL_PARTS)]
        self.walk = Walk(cast(Workers, Processes(server)), accounts)
        self.returns = 0

    async def kill(self) -> None:
        """Kill a worker amid an APPEND; whoever was connected to it comes back."""
        pid = self.random.choice(await asyncio.to_thread(self.server.wait_for_workers))
        inodes, owned = inodes_by_peer_port(self.server.imap[1]), sockets_of(pid)
        victims = [one for one in self.walk.everybody if inodes[one.connection.port] in owned]
        writers = [one for one in victims if one in self.walk.sessions and not one.is_idle]
        writer = self.random.choice(writers) if writers else None
        number, tag = self.walk.world.next_number(), ""
        if writer is not None:
            body = message(number)
            tag = writer.connection.begin(b"APPEND INBOX {%d+}\r\n%b" % (len(body), body))
            await asyncio.sleep(self.random.random() * 0.004)  # a commit takes that long: before it, amid it, after it
        self.server.kill_worker(pid)
        for one in victims:
            await one.connection.end_of_it()
        await asyncio.to_thread(self.server.wait_for_workers)
        for one in victims:
            if one not in self.walk.sessions:
                await one.connect()
        if writer is not None:
            await self._settle_append(writer, number, tag)
        for one in victims:
            if one in self.walk.sessions:
                self.returns += 1
                await one.come_back(one.modes, self.random.choice((0, 1, 2, 3)))
        self.walk.touch_all()
        await self.walk.compare(self.random.randrange(steps.WORKERS))

    async def _settle_append(self, writer: Session, number: int, tag: str) -> None:
        """The APPEND under way was carried out or not; if it was answered with OK, it was."""
        ends = [one for one in map(parse, writer.connection.lines) if isinstance(one, Condition) and one.tag == tag]
        inbox = self.walk.world.accounts[writer.reader].mailboxes[INBOX]
        observer = self.walk.observers[writer.reader][0]
        lines = await observer.connection.ok(status_of(INBOX, " HIGHESTMODSEQ"))
        (told,) = (one for one in lines if isinstance(one, Statused))
        is_confirmed = any(one.status == "OK" for one in ends)  # NO: the account is full
        if is_confirmed or told.values["MESSAGES"] > len(inbox.messages):
            inbox.add(number, frozenset(), writer.reader)
        self.walk.compare_status(lines, observer, INBOX)


async def run(server: ServerProcess, seed: int) -> None:
    killing = Killing(server, seed)
    walk = killing.walk
    listed = scenes.generate(seed, STEPS_BETWEEN * KILLS)
    try:
        await walk.start()
        for number, step in zip(itertools.count(1), listed, strict=False):
            await walk.step(step, number)
            if number % STEPS_BETWEEN == 0:
                await killing.kill()
    except BaseException as error:
        error.add_note(f"seed {seed}\n" + "\n".join(walk.said()))
        raise
    finally:
        walk.close()
    assert killing.returns >= LEAST_RETURNS


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.rfc(7162, "3.2.5")
@pytest.mark.parametrize("seed", range(3))
def test_the_model_holds_over_kills_of_workers(seed: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("POCHTA_MODEL_SEED", seed))
    with ServerProcess(tmp_path, LOCAL_PARTS) as server:
        server.start()
        asyncio.run(run(server, seed))
        server.stop()
        assert [one for one in check.check(server.data_dir) if one.severity is Severity.ERROR] == []
