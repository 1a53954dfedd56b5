"""What the commands answer to the shell: output, errors, exit codes; a few in processes of their own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner, Result

from pochta.cli import arguments
from pochta.cli.main import root
from pochta.store import directory, sqlite
from pochta.store.store import Store
from pochta.store.tx import Hint

PROGRAM = Path(sys.executable).with_name("pochta")

Run = Callable[..., Result]


def invoke(*words: str, input: str | None = None) -> Result:
    result = CliRunner().invoke(root, words, input=input, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pochta init` makes; a copy is quicker than another run."""
    home = tmp_path_factory.mktemp("template") / "mail"
    assert invoke("init", str(home), "--hostname", "mail.example.org").exit_code == 0
    return home


@pytest.fixture(scope="session")
def inhabited(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """With anna@example.org."""
    home = shutil.copytree(template, tmp_path_factory.mktemp("inhabited") / "mail")
    config = ("-c", str(home / "pochta.toml"))
    assert invoke(*config, "domain", "add", "example.org").exit_code == 0
    added = invoke(*config, "account", "add", "anna@example.org", "--password-stdin", input="secret\n")
    assert (added.exit_code, added.output) == (0, "")
    return home


@pytest.fixture
def empty_home(tmp_path: Path, template: Path) -> Path:
    return shutil.copytree(template, tmp_path / "mail")


@pytest.fixture
def home(tmp_path: Path, inhabited: Path) -> Path:
    return shutil.copytree(inhabited, tmp_path / "mail")


@pytest.fixture
def pochta(home: Path) -> Run:
    def run(*words: str, input: str | None = None) -> Result:
        return invoke("-c", str(home / "pochta.toml"), *words, input=input)

    return run


def test_init_makes_private_files(template: Path) -> None:
    data = template / "data"
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (data / "tls" / "certificate.pem").exists()
    assert (data / sqlite.DATABASE_NAME).stat().st_mode & 0o777 == 0o600


def test_init_overwrites_nothing(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    result = invoke("init", str(home), "--hostname", "other.example.org")
    assert result.exit_code == 2
    assert result.stderr == f"pochta: {home}/pochta.toml: exists already; choose another folder\n"
    (home / "pochta.toml").unlink()
    result = invoke("init", str(home), "--hostname", "other.example.org")
    assert result.exit_code == 2
    assert "there is a store already" in result.stderr
    assert not (home / "pochta.toml").exists()
    assert {path: path.read_bytes() for path in before if path.exists()} == {
        path: text for path, text in before.items() if path.name != "pochta.toml"
    }


def test_init_with_a_bad_name_leaves_nothing(tmp_path: Path) -> None:
    result = invoke("init", str(tmp_path), "--hostname", "not a host")
    assert result.exit_code == 2
    assert "hostname" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("domain", "add", "EXAMPLE.org"), 1, "pochta: domain EXAMPLE.org exists already\n"),
        (("domain", "add", "a b"), 2, '"a b" is not a domain; write it as example.org\n'),
        (("domain", "remove", "example.org"), 1, "pochta: domain example.org is in use (accounts: 1, aliases: 0)\n"),
        (("domain", "catch-all", "none.example", "none"), 1, "pochta: there is no domain none.example here\n"),
        (("account", "show", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (("account", "remove", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (("account", "add", "x@none.example"), 1, "pochta: there is no domain none.example here\n"),
        (("account", "password", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (("account", "list", "--domain", "none.example"), 1, "pochta: there is no domain none.example here\n"),
        (("account", "quota", "anna@example.org", "much"), 2, '"much" is not a size; write it as 500M, 2G or none\n'),
        (("account", "show", "anna"), 2, '"anna" is not an address; write it as user@example.org\n'),
        (("alias", "add", "x@example.org"), 2, "Missing argument 'TARGETS...'.\n"),
        (
            ("alias", "add", "x@example.org", "x@example.org"),
            1,
            "pochta: alias x@example.org would lead back to itself\n",
        ),
        (("alias", "remove", "x@example.org"), 1, "pochta: there is no alias x@example.org\n"),
        (("apply", "none.toml"), 2, "pochta: none.toml: cannot be read (No such file or directory); check its path"),
        (("apply",), 2, "Missing argument 'FILE.toml'.\n"),
        (("nonsense",), 2, "No such command 'nonsense'.\n"),
        (("serv",), 2, "No such command 'serv'. Did you mean 'serve'?\n"),
        (("account", "disable", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (("account", "enable", "bob@example.org"), 1, "pochta: there is no account bob@example.org\n"),
        (
            ("account", "add", "bob@example.org"),
            2,
            "pochta: there is no terminal to ask for the password at; add --password-stdin\n",
        ),
        (
            ("account", "password", "anna@example.org"),
            2,
            "pochta: there is no terminal to ask for the password at; add --password-stdin\n",
        ),
        (
            ("account", "remove", "anna@example.org"),
            2,
            "pochta: Remove anna@example.org and all its mail? There is no terminal to ask at; add --yes\n",
        ),
        (
            ("domain", "remove", "example.org", "--with-accounts"),
            2,
            "pochta: Remove example.org with all accounts and their mail? There is no terminal to ask at; add --yes\n",
        ),
        (("domain", "remove", "none.example", "--with-accounts", "--yes"), 1, "there is no domain none.example here\n"),
        (("account", "--nonsense"), 2, "--nonsense"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_errors(pochta: Run, words: tuple[str, ...], code: int, error: str) -> None:
    result = pochta(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert error in result.stderr
    assert code == 2 or result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "error"),
    [("", "a password cannot be empty"), ("\n", "a password cannot be empty"), ("x" * 600, "at most 512 bytes")],
    ids=["nothing", "empty line", "long"],
)
def test_password_that_cannot_be(pochta: Run, given: str, error: str) -> None:
    result = pochta("account", "password", "anna@example.org", "--password-stdin", input=given)
    assert result.exit_code == 2
    assert error in result.stderr


def test_password_is_asked_for_twice(pochta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "is_at_terminal", lambda: True)
    result = pochta("account", "add", "bob@example.org", input="one\ntwo\nthree\nthree\n")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "three" not in result.stderr


def test_settings_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCHTA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    result = invoke("-c", "gone.toml", "domain", "list")
    assert result.exit_code == 2
    assert result.stderr.startswith("pochta: gone.toml: no such file; ")


def test_serve_needs_its_certificate(home: Path, pochta: Run) -> None:
    (home / "data" / "tls" / "certificate.pem").unlink()
    result = pochta("serve")
    assert result.exit_code == 2
    assert "tls.certificate" in result.stderr
    assert pochta("domain", "list").exit_code == 0


def test_store_is_needed(home: Path, pochta: Run) -> None:
    (home / "data" / sqlite.DATABASE_NAME).unlink()
    result = pochta("domain", "list")
    assert result.exit_code == 2
    assert "there is no store; run `pochta init` first" in result.stderr
    assert not (home / "data" / sqlite.DATABASE_NAME).exists()


def test_store_of_a_newer_program_is_refused(home: Path, pochta: Run) -> None:
    connection = apsw.Connection(str(home / "data" / sqlite.DATABASE_NAME))
    connection.execute("UPDATE meta SET number = 999 WHERE name = 'min_writer'")
    connection.close()
    result = pochta("domain", "list")
    assert result.exit_code == 2
    assert "made by a newer Pochta" in result.stderr


@pytest.mark.parametrize("group", ["domain", "account", "alias"])
def test_empty_lists(empty_home: Path, group: str) -> None:
    config = ("-c", str(empty_home / "pochta.toml"))
    heads = invoke(*config, group, "list")
    assert (heads.exit_code, heads.output.count("\n"), heads.output.split()[0]) == (0, 1, group)
    as_json = invoke(*config, group, "list", "--json")
    assert (as_json.exit_code, as_json.output) == (0, "[]\n")


def test_piped_tables_have_no_trailing_blanks(pochta: Run) -> None:
    for group in ("account", "domain"):
        assert [line for line in pochta(group, "list").output.split("\n") if line != line.rstrip()] == []


def test_json(pochta: Run) -> None:
    pochta("alias", "add", "info@example.org", "anna@example.org", "b@else.example")
    assert json.loads(pochta("alias", "list", "--json").output) == [
        {"address": "info@example.org", "targets": ["anna@example.org", "b@else.example"]}
    ]
    (domain,) = json.loads(pochta("domain", "list", "--json").output)
    assert {key: domain[key] for key in ("name", "a_label", "catch_all", "accounts")} == {
        "name": "example.org",
        "a_label": "example.org",
        "catch_all": None,
        "accounts": 1,
    }
    (account,) = json.loads(pochta("account", "list", "--json").output)
    assert account == json.loads(pochta("account", "show", "anna@example.org", "--json").output)
    assert account["quota_bytes"] is None


def test_markup_in_an_address_is_text(pochta: Run) -> None:
    pochta("account", "add", '"[red]:smile:"@example.org', "--password-stdin", input="x\n")
    assert '"[red]:smile:"@example.org' in pochta("account", "list").output


def test_removal_asks_a_person(pochta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "is_at_terminal", lambda: True)
    question = "Remove anna@example.org and all its mail? [y/N]: "
    result = pochta("account", "remove", "anna@example.org", input="n\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert question in result.stderr
    result = pochta("account", "remove", "anna@example.org", input="y\n")
    assert (result.exit_code, result.stdout) == (0, "Removed anna@example.org: 0 messages\n")
    assert question in result.stderr


def test_refused_removal_removes_nothing(pochta: Run) -> None:
    assert pochta("account", "remove", "anna@example.org").exit_code == 2
    assert pochta("domain", "remove", "example.org", "--with-accounts").exit_code == 2
    assert pochta("account", "show", "anna@example.org").exit_code == 0


def count_messages(home: Path, count: int) -> None:
    """What the account's row says; the messages themselves are not looked at here."""
    connection = apsw.Connection(str(home / "data" / sqlite.DATABASE_NAME))
    connection.execute("UPDATE account SET message_count = ?", (count,))
    connection.close()


def note(where: str, target: str) -> str:
    return f"note: {where}: sends to {target}, which does not exist here; make the address or change the alias\n"


def elsewhere(where: str, target: str) -> str:
    remedy = "mail for it is sent on to the server of that domain"
    return f"note: {where}: sends to {target}, which is not kept here; {remedy}\n"


def test_removed_account_is_told_with_what_pointed_to_it(home: Path, pochta: Run) -> None:
    count_messages(home, 11)
    pochta("alias", "add", "info@example.org", "Anna+info@example.org")
    pochta("alias", "add", "both@example.org", "info@example.org", "anna@example.org")
    pochta("domain", "catch-all", "example.org", "ANNA@example.org")
    result = pochta("account", "remove", "anna@EXAMPLE.org", "--yes")
    assert (result.exit_code, result.stdout) == (0, "Removed anna@example.org: 11 messages\n")
    assert result.stderr == (
        note("both@example.org", "anna@example.org")
        + note("info@example.org", "Anna+info@example.org")
        + note("example.org", "ANNA@example.org")
    )
    told = pochta("check").stdout
    assert note("example.org", "ANNA@example.org") in told


def test_removed_domain_is_told_with_what_pointed_to_it(home: Path, pochta: Run) -> None:
    count_messages(home, 1)
    pochta("alias", "add", "info@example.org", "anna@example.org")
    pochta("domain", "add", "other.example")
    pochta("alias", "add", "x@other.example", "info@example.org")
    result = pochta("domain", "remove", "example.org", "--with-accounts", "--yes")
    assert (result.exit_code, result.stdout) == (0, "Removed example.org: 1 account, 1 alias, 1 message\n")
    assert result.stderr == elsewhere("x@other.example", "info@example.org")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("anna@example.org", ""),
        ("Anna+x@example.org", ""),
        ("postmaster@example.org", ""),
        ("nobody@example.org", note("example.org", "nobody@example.org")),
        ("b@else.example", elsewhere("example.org", "b@else.example")),
        ("away@example.org", elsewhere("example.org", "b@else.example")),
        ("none", ""),
    ],
)
def test_catch_all_to_nobody_is_told(pochta: Run, target: str, told: str) -> None:
    result = pochta("alias", "add", "away@example.org", "b@else.example", "anna@example.org")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == elsewhere("away@example.org", "b@else.example")
    result = pochta("domain", "catch-all", "example.org", target)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", told)


def test_first_catch_all_to_nobody_is_told(pochta: Run) -> None:
    result = pochta("domain", "add", "new.example", "--catch-all", "x@new.example")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", note("new.example", "x@new.example"))


def test_disabled_account(home: Path, pochta: Run) -> None:
    def account() -> directory.Account:
        async def work() -> directory.Account:
            store = Store(home / "data")
            store.start(hears_hints=False)
            found = await store.read(0, directory.account, "example.org", "anna")
            await store.close()
            return found

        return asyncio.run(work())

    generation = account().generation
    for command, is_enabled in (("disable", False), ("enable", True)):
        generation += 1
        for _ in range(2):  # the second time ends no session
            result = pochta("account", command, "Anna@example.org")
            assert (result.exit_code, result.output) == (0, "")
            assert (account().is_enabled, account().generation) == (is_enabled, generation)
        shown = "allowed" if is_enabled else "disabled; mail is still taken"
        assert f"\nsign-in   {shown}\n" in pochta("account", "show", "anna@example.org").output
        assert json.loads(pochta("account", "list", "--json").output)[0]["enabled"] is is_enabled


def test_old_store_is_left_to_serve(home: Path, pochta: Run) -> None:
    connection = apsw.Connection(str(home / "data" / sqlite.DATABASE_NAME))
    connection.execute("UPDATE meta SET number = 1 WHERE name IN ('schema_version', 'min_writer')")
    connection.close()
    for words in (("account", "list"), ("account", "disable", "anna@example.org")):
        result = pochta(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "store version 1, this program writes 4; start `pochta serve` once (it upgr" in result.stderr
        assert result.stderr.count("\n") == 1
    assert pochta("check").exit_code == 0
    assert pochta("backup", str(home / "saved")).exit_code == 0


def test_apply_twice_and_dry(pochta: Run, tmp_path: Path) -> None:
    file = tmp_path / "office.toml"
    file.write_text('[[account]]\naddress = "bob@example.org"\npassword = "x"\n')
    for words, printed in (
        (("--dry-run",), "+ account bob@example.org\n1 change (dry run)\n"),
        ((), "+ account bob@example.org\n1 change\n"),
        ((), "nothing to change\n"),
        (("--dry-run",), "nothing to change (dry run)\n"),
        (("--prune", "--dry-run"), None),
    ):
        result = pochta("apply", str(file), *words)
        if printed is None:
            assert result.exit_code == 2  # its own domain is not declared
        else:
            assert (result.exit_code, result.output) == (0, printed)


def test_bad_declaration_changes_nothing(pochta: Run, tmp_path: Path) -> None:
    file = tmp_path / "office.toml"
    file.write_text('[[account]]\naddress = "bob@example.org"\npasword = "x"\n')
    result = pochta("apply", str(file))
    assert result.exit_code == 2
    assert result.stderr == f'pochta: {file}: account 1: pasword: no such key; did you mean "password"?\n'


def test_errors_are_one_printable_line(pochta: Run, tmp_path: Path) -> None:
    file = tmp_path / "office.toml"
    file.write_text('"a\\n\\u001b[2J" = 1')
    result = pochta("apply", str(file))
    assert result.stderr == f"pochta: {file}: a\\n\\x1b[2J: no such table; known here: domain, account, alias, share\n"


def run_program(*words: str, input: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.run(
        [str(PROGRAM), *words], input=input, capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def test_program_end_to_end(tmp_path: Path) -> None:
    made = run_program("init", str(tmp_path / "mail"), "--hostname", "mail.example.org")
    assert (made.returncode, made.stderr) == (0, "")
    config = ("-c", str(tmp_path / "mail" / "pochta.toml"))
    assert run_program(*config, "domain", "add", "почта.рф").returncode == 0
    added = run_program(*config, "account", "add", "иван@почта.рф", "--password-stdin", input="пароль\n")
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "")
    again = run_program(*config, "account", "add", "иван@почта.рф", "--password-stdin", input="пароль\n")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "pochta: account иван@почта.рф exists already\n"
    listed = run_program(*config, "account", "list")
    assert listed.stdout.splitlines()[1].split() == ["иван@почта.рф", "0", "0B", "none"]


def test_program_at_a_terminal(home: Path) -> None:
    """Asks for what CliRunner cannot be asked for: a password, twice, which is not shown."""
    master, slave = os.openpty()
    words = ("-c", str(home / "pochta.toml"), "account", "add", "bob@example.org")
    with subprocess.Popen(
        [str(PROGRAM), *words], stdin=slave, stderr=subprocess.PIPE, start_new_session=True
    ) as program:
        assert program.stderr is not None
        for prompt in (b"Password: ", b"Repeat for confirmation: "):
            told = b""
            while not told.endswith(prompt):
                told += (read := program.stderr.read(1))
                assert read, told
            os.write(master, b"secret\n")
        assert program.wait(60) == 0
    os.close(slave)
    os.close(master)
    shown = run_program("-c", str(home / "pochta.toml"), "account", "show", "bob@example.org")
    assert shown.returncode == 0


def test_table_at_a_terminal_begins_with_its_head(home: Path) -> None:
    master, slave = os.openpty()
    words = ("-c", str(home / "pochta.toml"), "account", "list")
    done = subprocess.run([str(PROGRAM), *words], stdout=slave, timeout=60, check=True)
    os.close(slave)
    assert done.returncode == 0
    with open(master, "rb", buffering=0) as terminal:
        assert b"account" in terminal.read(4096).split(b"\n")[0]


def test_running_server_hears_of_a_change(home: Path, pochta: Run) -> None:
    async def serve() -> set[int]:
        store = Store(home / "data")
        store.start()
        heard: set[int] = set()
        news = asyncio.Event()

        def note(hints: list[Hint]) -> None:
            heard.update(hint.account_id for hint in hints)
            if 1 in heard:
                news.set()

        store.subscribe(note)
        words = ("-c", str(home / "pochta.toml"), "account", "quota", "anna@example.org", "1G")
        program = await asyncio.create_subprocess_exec(str(PROGRAM), *words)
        async with asyncio.timeout(20):
            assert await program.wait() == 0
            await news.wait()
        assert (await store.read(0, directory.account, "example.org", "anna")).quota_bytes == 1 << 30
        await store.close()
        return heard

    assert 1 in asyncio.run(serve())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["account", "--help"], ["apply", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\n"
        "from pochta.cli.main import root\n"
        "try:\n"
        f"    root({words!r}, prog_name='pochta')\n"
        "finally:\n"
        "    print(*sorted(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stderr.split())
    assert "click" in loaded
    heavy = {"apsw", "argon2", "asyncio", "bcrypt", "cryptography", "msgspec", "rich", "ssl", "tomllib", "uvloop"}
    assert loaded & heavy == set()
