"""`pochta account app-password`: what it prints, refuses and leaves in the store."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pochta.accounts.auth import Authenticator, Service
from pochta.accounts.passwords import Cost
from pochta.cli.main import root
from pochta.errors import Refusal
from pochta.log import Secret
from pochta.store.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "mail"
    assert invoke("init", str(home), "--hostname", "mail.example.org").exit_code == 0
    assert run(home, "domain", "add", "example.org").exit_code == 0
    added = CliRunner().invoke(
        root, ["-c", f"{home}/pochta.toml", "account", "add", "Anna@example.org", "--password-stdin"], input="secret\n"
    )
    assert added.exit_code == 0
    return home


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(root, words, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def run(home: Path, *words: str) -> Result:
    return invoke("-c", str(home / "pochta.toml"), *words)


def app(home: Path, *words: str) -> Result:
    return run(home, "account", "app-password", *words)


def opens(home: Path, password: str) -> list[str]:
    """The services that anna can sign in to with it."""

    async def work() -> list[str]:
        store = Store(home / "data")
        store.start(hears_hints=False)
        door = Authenticator(store, cost=Cost(memory_kib=8, passes=1))
        found = []
        for service in Service:
            try:
                await door.verify("anna", Secret(password), service=service, peer="192.0.2.1")
            except Refusal:
                continue
            found.append(str(service))
        door.close()
        await store.close()
        return found

    return asyncio.run(work())


def test_life_of_an_app_password(home: Path) -> None:
    added = app(home, "add", "anna@EXAMPLE.org", "--label", " phone ", "--scope", "smtp")
    assert added.exit_code == 0
    assert re.fullmatch(r"(?:[a-z]{4}-){6}[a-z]{4}\n", added.output)
    other = app(home, "add", "anna@example.org", "--label", "all").output.strip()
    assert opens(home, added.output.strip()) == ["smtp"]
    assert opens(home, other) == ["imap", "pop3", "smtp"]
    [first, second] = json.loads(app(home, "list", "anna@example.org", "--json").output)
    assert (first["label"], first["scope"], second["label"], second["scope"]) == ("phone", "smtp", "all", "mail")
    assert (first["id"], second["id"]) == (1, 2)
    assert first["created_at"] > 1_700_000_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", first["used_day"])
    table = app(home, "list", "anna@example.org").output
    assert table.split("\n")[0].split() == ["id", "label", "scope", "created", "used"]
    assert added.output.strip() not in table
    removed = app(home, "remove", "anna@example.org", str(first["id"]))
    assert (removed.exit_code, removed.output) == (0, "")
    assert opens(home, added.output.strip()) == []
    assert opens(home, other) == ["imap", "pop3", "smtp"]


def test_empty_list(home: Path) -> None:
    assert app(home, "list", "anna@example.org").output == "id  label  scope  created  used\n"
    assert app(home, "list", "anna@example.org", "--json").output == "[]\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("add", "bob@example.org", "--label", "x"), 1, "there is no account bob@example.org"),
        (("add", "anna@example.org"), 2, "--label"),
        (("add", "anna@example.org", "--label", " "), 1, "a label is"),
        (("add", "anna@example.org", "--label", "x", "--scope", "web"), 2, "--scope"),
        (("list", "bob@example.org"), 1, "there is no account bob@example.org"),
        (("remove", "anna@example.org", "3"), 1, "there is no app password 3"),
        (("remove", "anna@example.org", "x"), 2, "x"),
        (("remove", "anna@example.org", "99999999999999999999"), 2, "99999999999999999999"),
    ],
)
def test_refused(home: Path, words: tuple[str, ...], code: int, text: str) -> None:
    result = app(home, *words)
    assert result.exit_code == code
    assert text in result.output
