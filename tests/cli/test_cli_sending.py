"""`pochta account stop` and `release`, `pochta domain keys` and `rotate-keys`: what they print and leave behind."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pochta.accounts.sending import BY_HAND
from pochta.cli.main import root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "mail"
    assert invoke("init", str(home), "--hostname", "mail.example.org").exit_code == 0
    assert run(home, "domain", "add", "example.org").exit_code == 0
    return home


def invoke(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(root, words, input=input, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def run(home: Path, *words: str, input: str | None = None) -> Result:
    return invoke("-c", str(home / "pochta.toml"), *words, input=input)


def test_account_is_stopped_and_released(home: Path) -> None:
    added = run(home, "account", "add", "anna@example.org", "--password-stdin", input="secret\n")
    assert added.exit_code == 0

    def stopped() -> str | None:
        shown = json.loads(run(home, "account", "show", "anna@example.org", "--json").output)
        return shown["sending_stopped"]  # type: ignore[no-any-return]

    assert stopped() is None
    for verb, reason in (("stop", BY_HAND), ("stop", BY_HAND), ("release", None), ("release", None)):
        result = run(home, "account", verb, "Anna@Example.org")
        assert (result.exit_code, result.output) == (0, "")
        assert stopped() == reason
        shown = run(home, "account", "show", "anna@example.org").output
        assert (f"sending   stopped: {reason}\n" in shown) == (reason is not None)


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("account", "stop", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (("account", "release", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (("account", "release", "bob"), 2, '"bob" is not an address; write it as user@example.org\n'),
        (("domain", "keys", "none.example"), 1, "pochta: there is no domain none.example here\n"),
        (("domain", "rotate-keys", "none.example"), 1, "pochta: there is no domain none.example here\n"),
        (("domain", "rotate-keys", "a b"), 2, '"a b" is not a domain; write it as example.org\n'),
    ],
)
def test_refusals(home: Path, words: tuple[str, ...], code: int, error: str) -> None:
    result = run(home, *words)
    assert result.exit_code == code
    assert result.stderr.endswith(error)


def test_keys_are_rotated(home: Path) -> None:
    first = json.loads(run(home, "domain", "keys", "example.org", "--json").output)
    assert [(one["algorithm"], one["state"]) for one in first] == [
        ("rsa-sha256", "signing"),
        ("ed25519-sha256", "signing"),
    ]
    assert re.fullmatch(r"p\d{6}r\._domainkey\.example\.org", first[0]["name"])

    rotated = run(home, "domain", "rotate-keys", "EXAMPLE.org")
    assert rotated.exit_code == 0
    rsa, ed25519 = rotated.output.splitlines()
    name, _, strings = rsa.partition(". IN TXT ")
    pieces = re.findall(r'"([^"]*)"', strings)
    assert len(pieces) == 2
    assert all(len(piece) <= 255 for piece in pieces)
    records = json.loads(run(home, "domain", "keys", "example.org", "--json").output)
    assert [one["state"] for one in records] == ["signing", "signing", "next", "next"]
    assert (records[2]["name"], records[2]["text"]) == (name, "".join(pieces))
    assert ed25519 == f'{records[3]["name"]}. IN TXT "{records[3]["text"]}"'
    assert len({one["selector"] for one in records}) == 4

    again = run(home, "domain", "rotate-keys", "example.org")
    waiting = f"{records[2]['selector']}, {records[3]['selector']}"
    assert again.exit_code == 1
    assert again.stderr == f"pochta: domain example.org has new keys that wait for their DNS records: {waiting}\n"


def test_apply_makes_keys_with_a_domain(home: Path) -> None:
    file = home / "office.toml"
    file.write_text('[[domain]]\nname = "office.example"\n', encoding="utf-8")
    assert run(home, "apply", str(file), "--dry-run").output == "+ domain office.example\n1 change (dry run)\n"
    assert run(home, "apply", str(file)).output == "+ domain office.example\n1 change\n"
    assert len(json.loads(run(home, "domain", "keys", "office.example", "--json").output)) == 2
    assert run(home, "apply", str(file)).output == "nothing to change\n"
