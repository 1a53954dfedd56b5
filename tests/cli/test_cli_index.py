"""`pochta index`: how the text index stands, made anew; what `check` and `backup` make of it."""

import asyncio
import json
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from pochta.cli.main import root
from pochta.delivery.intake import Intake
from pochta.store import messages
from pochta.store.store import Store


def invoke(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(root, words, input=input, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """With two messages of anna@example.org."""
    home = tmp_path / "mail"
    assert invoke("init", str(home), "--hostname", "mail.example.org").exit_code == 0
    for words in (("domain", "add", "example.org"), ("account", "add", "anna@example.org", "--password-stdin")):
        assert run(home, *words, input="secret\n").exit_code == 0
    asyncio.run(append(home / "data", b"Subject: one\r\n\r\ntext\r\n", b"Subject: two\r\n\r\ntext\r\n"))
    return home


def run(home: Path, *words: str, input: str | None = None) -> Result:
    return invoke("-c", str(home / "pochta.toml"), *words, input=input)


async def append(data_dir: Path, *raws: bytes) -> None:
    store = Store(data_dir)
    store.start(hears_hints=False)
    intake = Intake(store.blobs, memory_limit_bytes=1 << 20)
    items = []
    for raw in raws:
        incoming = intake.open()
        incoming.write(raw)
        items.append((await incoming.finish(1), messages.NewPlacement(0, (), 1, 0)))
    await store.write(0, messages.append, 1, "INBOX", tuple(items), 1)
    await store.close()


def standing(home: Path) -> dict[str, object]:
    (one,) = json.loads(run(home, "index", "status", "anna@example.org", "--json").output)
    assert isinstance(one, dict)
    return one


def test_rebuild_and_status(home: Path) -> None:
    before = standing(home)
    assert (before["messages"], before["indexed"], before["waiting"], before["size_bytes"]) == (2, 0, 2, 0)
    rebuilt = run(home, "index", "rebuild")
    assert (rebuilt.exit_code, rebuilt.output) == (0, "2 messages of 1 account indexed\n")
    after = standing(home)
    assert (after["messages"], after["indexed"], after["waiting"], after["fault"]) == (2, 2, 0, None)
    assert "anna@example.org  2         2        0" in run(home, "index", "status").output


def test_status_of_nobody_is_refused(home: Path) -> None:
    refused = run(home, "index", "status", "nobody@example.org")
    assert (refused.exit_code, refused.stdout) == (1, "")


def test_check_notices_an_index_ahead_of_the_store(home: Path) -> None:
    run(home, "index", "rebuild")
    assert "text index" not in run(home, "check").output
    connection = apsw.Connection(str(home / "data/index/1/1.db"))
    connection.execute("UPDATE meta SET number = 9999 WHERE name = 'last_id'")
    connection.close()
    checked = run(home, "check")
    assert checked.exit_code == 0
    assert "note: " in checked.output
    assert "data/index/1/1.db: the text index is ahead of the store" in checked.output
    assert standing(home)["fault"] == "it is not of this store"


def test_backup_leaves_the_index_out(home: Path, tmp_path: Path) -> None:
    run(home, "index", "rebuild")
    assert run(home, "backup", str(tmp_path / "copy")).exit_code == 0
    assert not list((tmp_path / "copy").rglob("index*"))
