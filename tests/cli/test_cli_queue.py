"""`pochta queue`: what it shows, and what it changes in the store, while the server runs and while it does not."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pochta import clock
from pochta.cli.main import root
from pochta.store import leases, outbox, queue_view, shares
from pochta.store.outbox import Reached, Settled, State
from pochta.store.store import Store
from pochta.store.trails import Step
from pochta.store.tx import Tx


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "mail"
    assert invoke("init", str(home), "--hostname", "mail.example.org").exit_code == 0
    assert run(home, "domain", "add", "example.org").exit_code == 0
    return home


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.current(), "now", lambda: 1_750_000_000.0)


def invoke(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(root, words, input=input, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def run(home: Path, *words: str, input: str | None = None) -> Result:
    return invoke("-c", str(home / "pochta.toml"), *words, input=input)


def send(home: Path, *to: str) -> None:
    assert run(home, "send", "--from", "anna@example.org", *to, input="Hello\n").exit_code == 0


def queue(home: Path, *words: str) -> Result:
    return run(home, "queue", *words)


def listed(home: Path) -> list[tuple[int, str, str]]:
    return [(one["id"], one["address"], one["state"]) for one in json.loads(queue(home, "list", "--json").output)]


def in_store(home: Path, work: str) -> None:
    """Claim everything for b.test (`claim`), and settle it as put off (`defer`)."""

    async def change() -> None:
        store = Store(home / "data")
        store.start(hears_hints=False)
        await store.write(0, _claim_and_settle, work == "defer")
        await store.close()

    asyncio.run(change())


def _claim_and_settle(tx: Tx, is_settled: bool) -> None:
    now = int(clock.now_s())
    number = leases.acquire(tx, shares.LEASE, "test", now, 60)
    assert number is not None
    fence = leases.Fence(shares.LEASE, number)
    claim = outbox.claim(tx, fence, "b.test", 0, now, 10, 10)
    if is_settled:
        reply = "451 4.7.1 Try again later"
        settled = [
            Settled(
                one.outgoing_id,
                one.n,
                claim.messages[0].trail_id,
                State.WAITING,
                outbox.Owed.NOTHING,
                now + 240,
                now,
                "mx.b.test",
                reply,
                Step(now, "deferred", one.address, "{}"),
            )
            for one in claim.recipients
        ]
        outbox.settle(tx, fence, "b.test", settled, Reached("b.test", now, "mx.b.test", reply, now + 600))
        assert not outbox.claim(tx, fence, "b.test", 0, now, 10, 10).recipients


def test_empty_queue(home: Path) -> None:
    assert queue(home).output == "The queue is empty.\n"
    assert queue(home, "--json").output == "[]\n"
    assert queue(home, "--json", "list").exit_code == 2


def test_summary_and_list_say_why_mail_waits(home: Path) -> None:
    send(home, "bob@b.test", "carol@c.test")
    in_store(home, "defer")
    summary = {one["destination"]: one for one in json.loads(queue(home, "--json").output)}
    assert summary["b.test"]["waiting"] == 1
    assert summary["b.test"]["last_reply"] == "451 4.7.1 Try again later"
    assert summary["c.test"]["last_reply"] is None
    output = queue(home).output
    assert "451 4.7.1 Try again later" in output
    assert "in 10m 0s" in output
    assert "bob@b.test" in queue(home, "list", "--destination", "B.test").output
    assert "carol" not in queue(home, "list", "--destination", "B.test").output
    limited = queue(home, "list", "--limit", "1")
    assert limited.stderr == "the first 1 of 2; --limit shows more, `pochta queue` sums them up\n"


def test_message_is_shown_with_each_recipient(home: Path) -> None:
    send(home, "bob@b.test", "carol@c.test")
    in_store(home, "defer")
    shown = queue(home, "show", "1").output
    assert "  waiting, next attempt in 10m 0s, 1 attempt so far\n  now, mx.b.test: 451 4.7.1 Try again later\n" in shown
    assert "carol@c.test\n  waiting, next attempt now\n" in shown
    found = json.loads(queue(home, "show", "1", "--json").output)
    assert found["sender"] == "anna@example.org"
    assert [one["attempts"] for one in found["recipients"]] == [1, 0]


def test_hold_release_retry_delete(home: Path) -> None:
    send(home, "bob@b.test", "carol@c.test")
    send(home, "dave@b.test")
    assert queue(home, "hold", "--destination", "b.test").output == "2 recipients held\n"
    assert listed(home) == [(1, "bob@b.test", "held"), (1, "carol@c.test", "waiting"), (2, "dave@b.test", "held")]
    assert queue(home, "release", "2").output == "1 recipient released\n"
    assert queue(home, "retry", "--all").output == "2 recipients due now\n"
    refused = queue(home, "delete", "1")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("pochta: Delete 2 recipients of message 1?")
    assert queue(home, "delete", "1", "--yes").output == "2 recipients deleted\n"
    assert listed(home) == [(2, "dave@b.test", "waiting")]
    assert queue(home, "delete", "--all", "--yes").output == "1 recipient deleted\n"
    assert queue(home, "delete", "--all", "--yes").output == "the queue: nothing waits or is held\n"


def test_what_is_being_sent_is_left_and_told(home: Path) -> None:
    send(home, "bob@b.test", "carol@c.test")
    in_store(home, "claim")
    held = queue(home, "hold", "1")
    assert held.output == "1 recipient held; 1 being sent right now, left as it is\n"
    assert listed(home) == [(1, "bob@b.test", "sending"), (1, "carol@c.test", "held")]


def test_long_queue_is_changed_in_steps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_view, "CHANGED_MAX", 2)
    send(home, *(f"u{number}@b.test" for number in range(5)))
    assert queue(home, "hold", "--all").output == "5 recipients held\n"
    assert queue(home, "release", "1").output == "5 recipients released\n"
    assert queue(home, "delete", "--all", "--yes").output == "5 recipients deleted\n"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("show", "9"), 1, "pochta: No message 9 is in the queue\n"),
        (("delete", "9", "--yes"), 1, "pochta: No message 9 is in the queue\n"),
        (("retry",), 2, "name one of: the ID of a message, --destination D, --all\n"),
        (("retry", "1", "--all"), 2, "name one of: the ID of a message, --destination D, --all\n"),
        (("hold", "--destination", "a b"), 2, '"a b" is not a destination; `pochta queue` lists them\n'),
    ],
)
def test_refusals(home: Path, words: tuple[str, ...], code: int, error: str) -> None:
    result = queue(home, *words)
    assert result.exit_code == code
    assert result.stderr.endswith(error)
