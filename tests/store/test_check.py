"""`pochta check` finds what is planted, says nothing of a sound store, and saves what a damaged one still holds."""

import asyncio
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pochta.cli import main
from pochta.errors import SetupError
from pochta.store import check, directory, flags, mailboxes, messages, placements, setup, sqlite
from pochta.store.blobs import Blobs, NewBlob
from pochta.store.invariants import Severity
from pochta.store.placements import FlagMode
from pochta.store.salvage import NAME_MAX_BYTES, safe_name, salvage

NOW = 1_750_000_000
BIG = b"Subject: big\r\n\r\n" + b"0123456789abcde\n" * 8192


def message(blob: NewBlob, ref: int) -> messages.NewMessage:
    keys = ("subject", "a@example.org", "b@example.org", "", "preview")
    return messages.NewMessage(blob, 5, NOW, None, None, (ref,), 1, *keys, b"(NIL)", b"(1)", b"S: s\r\n", 1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound store: three small messages and a big one in INBOX, one of them in `x/y` too, two expunged."""
    data_dir = tmp_path_factory.mktemp("template") / "data"
    setup.create(data_dir)
    big = asyncio.run(Blobs(data_dir / "blobs").put([BIG]))
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    tx = sqlite.SqliteTx(connection, 0)
    with connection:
        directory.add_domain(tx, "example.org", "example.org", "a@example.org", NOW)
        directory.add_account(tx, "example.org", "a", "a@example.org", "", 0, NOW)
        directory.add_alias(tx, "example.org", "post", "post@example.org", ["a@example.org", "b@else.where"], NOW)
        mailboxes.create(tx, 1, "x/y", NOW)
        for n in range(5):
            messages.deliver(tx, [1], message(NewBlob(20, b"Subject: message %03d" % n, None), n))
        messages.deliver(tx, [1], message(big, 9))
        inbox = mailboxes.find_inbox(tx, 1)
        placements.set_flags(tx, 1, inbox, [(1, 2)], FlagMode.ADD, flags.SEEN, ("work",), NOW)
        placements.copy(tx, 1, inbox, [(1, 1)], "x/y", NOW)
        placements.expunge(tx, 1, inbox, [(3, 4)], NOW, False)
    connection.close()
    return data_dir


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Path:
    """A copy of the sound store."""
    return shutil.copytree(template, tmp_path / "data")


def change(data_dir: Path, sql: str) -> None:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    connection.pragma("foreign_keys", False)
    connection.execute(sql)
    connection.close()


def errors(data_dir: Path) -> list[str]:
    return [str(finding) for finding in check.check(data_dir) if finding.severity is Severity.ERROR]


def notes(data_dir: Path) -> list[str]:
    return [str(finding) for finding in check.check(data_dir) if finding.severity is Severity.NOTE]


def test_sound_store(data_dir: Path) -> None:
    assert check.check(data_dir) == []


def test_empty_store(tmp_path: Path) -> None:
    setup.create(tmp_path / "data")
    assert check.check(tmp_path / "data") == []


INBOX = "account_id = 1 AND mailbox_id = 1"
PLANTED = {
    "message count": ("UPDATE mailbox SET message_count = 9 WHERE role = 'inbox'", "counters"),
    "unseen": ("UPDATE mailbox SET unseen_count = 0 WHERE role = 'inbox'", "counters"),
    "deleted": ("UPDATE mailbox SET deleted_count = 1 WHERE role = 'sent'", "counters"),
    "bytes": ("UPDATE mailbox SET total_bytes = total_bytes - 1 WHERE role = 'inbox'", "counters"),
    "quota bytes": ("UPDATE account SET used_bytes = used_bytes + 20", "quota's counters"),
    "quota messages": ("UPDATE account SET message_count = message_count + 1", "quota's counters"),
    "no mailbox": ("DELETE FROM mailbox WHERE name = 'y'", "mailbox that does not exist"),
    "no message": ("DELETE FROM message WHERE blob_id = 2", "names a message that does not exist"),
    "size": ("UPDATE placement SET size = size + 1 WHERE uid = 2", "its size is another"),
    "no blob": ("DELETE FROM blob WHERE id = 2", "names bytes that do not exist"),
    "no bytes": ("DELETE FROM blob_inline WHERE blob_id = 2", "or in neither"),
    "bytes cut": ("UPDATE blob_inline SET bytes = x'00' WHERE blob_id = 2", "fewer or more"),
    "codec": ("UPDATE blob SET codec = 7 WHERE id = 2", "unknown way"),
    "stray bytes": ("INSERT INTO blob_inline VALUES (99, x'00')", "without a row"),
    "header": ("UPDATE message SET header_size = size + 1 WHERE blob_id = 2", "make no sense"),
    "envelope": ("UPDATE message SET envelope = x'' WHERE blob_id = 2", "make no sense"),
    "thread": ("UPDATE message SET thread_id = id + 1 WHERE blob_id = 2", "make no sense"),
    "uid next": ("UPDATE mailbox SET uid_next = 3 WHERE role = 'inbox'", "not below UIDNEXT"),
    "uid twice": ("UPDATE removed SET uid = 1 WHERE uid = 3", "stands for two messages"),
    "mod_seq": ("UPDATE account SET mod_seq = 3", "past the account's"),
    "mailbox mod_seq": ("UPDATE mailbox SET mod_seq = 2, counts_mod_seq = 2 WHERE role = 'inbox'", "change number"),
    "created": ("UPDATE placement SET created_mod_seq = mod_seq + 1 WHERE uid = 2", "below that of its making"),
    "log gone": ("DELETE FROM change WHERE kind = 1", "does not tell of change number"),
    "log of removal": ("UPDATE change SET uids = '3' WHERE kind = 3", "does not tell of change number"),
    "log text": ("UPDATE change SET uids = '4:3' WHERE kind = 3", "impossible row"),
    "log words": ("UPDATE change SET uids = 'x' WHERE kind = 3", "impossible row"),
    "log kind": ("UPDATE change SET kind = 77 WHERE kind = 3", "impossible row"),
    "next id": ("UPDATE account SET next_id = 4", "given out again"),
    "validity": ("UPDATE mailbox SET uid_validity = (SELECT min(uid_validity) FROM mailbox)", "UIDVALIDITY"),
    "next validity": ("UPDATE account SET next_uid_validity = 1", "UIDVALIDITY"),
    "recent": ("UPDATE mailbox SET recent_uid = 99", "numbers of the mailbox"),
    "circle": ("UPDATE mailbox SET parent_id = (SELECT id FROM mailbox WHERE name = 'y') WHERE name = 'x'", "no way"),
    "no parent": ("UPDATE mailbox SET parent_id = 9999 WHERE name = 'y'", "no way leads"),
    "no INBOX": ("UPDATE mailbox SET role = NULL WHERE role = 'inbox'", "no INBOX"),
    "name": ("UPDATE mailbox SET name = 'a/b' WHERE name = 'y'", "impossible name"),
    "half removed": ("UPDATE mailbox SET removed_at = 1 WHERE role = 'sent'", "half removed"),
    "flag": ("UPDATE placement SET flags = flags | 4096 WHERE uid = 2", "flag has no name"),
    "keyword": ("UPDATE keyword SET folded = 'other'", "keyword makes no sense"),
    "reader": ("INSERT INTO reader_seen VALUES (1, 1, 5, 77)", "a reader saw"),
    "overflow": ("INSERT INTO placement_keyword VALUES (1, 1, 77, 'k')", "overflows"),
    "no account": ("INSERT INTO subscription VALUES (99, 'x')", "account that does not exist"),
    "no domain": ("UPDATE alias SET domain_id = 99", "belongs to a domain"),
    "both": ("UPDATE alias SET local_part = 'a'", "is an account and an alias"),
    "no alias": ("INSERT INTO alias_target VALUES (99, 'x@y')", "belongs to no alias"),
    "no target": ("DELETE FROM alias_target", "stands for nobody"),
    "account": ("UPDATE account SET removed_at = 5", "account is half removed"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_error_is_found(data_dir: Path, name: str) -> None:
    sql, want = PLANTED[name]
    change(data_dir, sql)
    found = errors(data_dir)
    assert any(want in line for line in found), found
    assert all("\n" not in line for line in found)


def test_log_that_no_longer_reaches_back_is_no_error(data_dir: Path) -> None:
    change(data_dir, "DELETE FROM change; UPDATE account SET log_floor_mod_seq = mod_seq")
    assert check.check(data_dir) == []


def test_findings_are_bounded(data_dir: Path) -> None:
    change(data_dir, "UPDATE mailbox SET message_count = 5")
    many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 3000)"
    change(data_dir, f"{many} INSERT INTO reader_seen SELECT 1, 1, 1, i + 100 FROM n")
    assert len(errors(data_dir)) < 50


def big_file(data_dir: Path) -> Path:
    [path] = (data_dir / "blobs").glob("*/*")
    return path


def test_missing_file(data_dir: Path) -> None:
    big_file(data_dir).unlink()
    [line] = errors(data_dir)
    assert "blob 6" in line
    assert "No such file" in line


def test_short_file(data_dir: Path) -> None:
    os.truncate(big_file(data_dir), 10)
    [line] = errors(data_dir)
    assert f"10 bytes instead of {len(BIG)}" in line


def test_leftover_files_are_notes(data_dir: Path) -> None:
    (big_file(data_dir).parent / "0-other").write_bytes(b"x")
    (data_dir / "blobs" / ".new-1").write_bytes(b"x")
    assert errors(data_dir) == []
    assert len(notes(data_dir)) == 2


def test_orphans_are_notes(data_dir: Path) -> None:
    change(
        data_dir, "DELETE FROM removed WHERE uid = 3; INSERT INTO blob VALUES (50, 0, 0, 0, 1, 1, 3523407757, NULL, 0);"
    )
    change(data_dir, "INSERT INTO blob_inline VALUES (50, x'00')")
    assert errors(data_dir) == []
    assert len(notes(data_dir)) == 2


def test_alias_to_nobody_is_a_note(data_dir: Path) -> None:
    change(data_dir, "INSERT INTO alias_target VALUES (1, 'Gone@Example.ORG'), (1, 'a+x@example.org')")
    [line] = notes(data_dir)
    assert "Gone@Example.ORG" in line


def test_beside_a_running_server(data_dir: Path) -> None:
    with (data_dir / check.SERVER_LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        [line] = notes(data_dir)
        assert "a server runs" in line
    assert notes(data_dir) == []


def test_beside_a_writer(data_dir: Path) -> None:
    writer = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    writer.execute("BEGIN IMMEDIATE; DELETE FROM mailbox")
    assert check.check(data_dir) == []
    writer.close()


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="pochta init"):
        check.check(tmp_path)
    assert os.listdir(tmp_path) == []


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / sqlite.DATABASE_NAME).write_bytes(b"garbage" * 5000)
    assert "cannot be read" in errors(tmp_path)[0]


def tables_pages(data_dir: Path, table: str) -> tuple[int, list[int]]:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    connection.pragma("wal_checkpoint(truncate)")
    pages = [row[0] for row in connection.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (table,))]
    size = connection.pragma("page_size")
    connection.close()
    return size, pages


def destroy(data_dir: Path, table: str, *, only: slice = slice(None)) -> None:
    """Overwrite pages of the table."""
    size, pages = tables_pages(data_dir, table)
    with (data_dir / sqlite.DATABASE_NAME).open("r+b") as file:
        for page in pages[only]:
            file.seek((page - 1) * size)
            file.write(b"\xa5" * size)


TABLES = ("account", "mailbox", "placement", "message", "change", "blob", "blob_inline", "keyword", "domain", "meta")


@pytest.mark.parametrize("table", TABLES)
def test_destroyed_table_is_told(data_dir: Path, table: str) -> None:
    destroy(data_dir, table)
    assert errors(data_dir)


def saved(target: Path) -> dict[str, bytes]:
    files = (path for path in sorted(target.rglob("*")) if path.is_file())
    return {str(path.relative_to(target)): path.read_bytes() for path in files}


SMALL = {n: b"Subject: message %03d" % n for n in range(5)}
WHOLE = {
    "a@example.org/INBOX/1.eml": SMALL[0],
    "a@example.org/INBOX/2.eml": SMALL[1],
    "a@example.org/INBOX/5.eml": SMALL[4],
    "a@example.org/INBOX/6.eml": BIG,
    "a@example.org/x/y/1.eml": SMALL[0],
}


def test_salvage_of_a_sound_store(data_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "saved"
    assert salvage(data_dir, target)._asdict() == {
        **{"accounts": 1, "mailboxes": 8, "messages": 5},
        **{"lost_and_found": 0, "failures": 0},
    }
    assert saved(target) == WHOLE
    assert (target / "a@example.org/INBOX/1.eml").stat().st_mtime == NOW
    assert (target / "a@example.org/Drafts").is_dir()


def test_salvage_goes_past_a_damaged_message(data_dir: Path, tmp_path: Path) -> None:
    change(data_dir, "DELETE FROM message WHERE blob_id = 2")
    os.truncate(big_file(data_dir), 100)
    result = salvage(data_dir, tmp_path / "saved")
    assert (result.messages, result.failures) == (3, 2)
    files = saved(tmp_path / "saved")
    assert files["a@example.org/INBOX/6.eml"] == BIG[:100]
    assert files["lost+found/blob-2.eml"] == SMALL[1]


@pytest.mark.parametrize("table", ["placement", "message", "mailbox", "account"])
def test_salvage_without_a_table(data_dir: Path, tmp_path: Path, table: str) -> None:
    destroy(data_dir, table)
    assert salvage(data_dir, tmp_path / "saved").failures
    assert {SMALL[0], SMALL[1], SMALL[4], BIG} <= set(saved(tmp_path / "saved").values())


def test_salvage_reads_a_broken_table_from_both_ends(data_dir: Path, tmp_path: Path) -> None:
    connection = sqlite.connect(data_dir / sqlite.DATABASE_NAME)
    tx = sqlite.SqliteTx(connection, 0)
    items = [
        (message(NewBlob(20, b"Subject: message %03d" % n, None), n), messages.NewPlacement(0, (), NOW, 0))
        for n in range(900)
    ]
    with connection:
        messages.append(tx, 1, "Sent", items, NOW)
    connection.close()
    _, pages = tables_pages(data_dir, "placement")
    assert len(pages) > 4
    destroy(data_dir, "placement", only=slice(3, 4))
    result = salvage(data_dir, tmp_path / "saved")
    sent = {path for path in saved(tmp_path / "saved") if path.startswith("a@example.org/Sent/")}
    assert "a@example.org/Sent/900.eml" in sent
    assert "a@example.org/Sent/1.eml" in sent
    assert 600 < len(sent) < 900
    assert set(saved(tmp_path / "saved").values()) >= {item[0].blob.inline for item in items}
    assert result.failures


def test_salvage_of_no_database(data_dir: Path, tmp_path: Path) -> None:
    (data_dir / sqlite.DATABASE_NAME).write_bytes(b"garbage" * 5000)
    for name in ("-wal", "-shm"):
        (data_dir / (sqlite.DATABASE_NAME + name)).unlink(missing_ok=True)
    assert salvage(data_dir, tmp_path / "saved").lost_and_found == 1
    assert list(saved(tmp_path / "saved").values()) == [BIG]


def test_salvage_wants_an_empty_folder(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="not empty"):
        salvage(data_dir, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be written"):
        salvage(data_dir, tmp_path / "file")


def test_salvage_survives_a_circle_of_mailboxes(data_dir: Path, tmp_path: Path) -> None:
    change(data_dir, "UPDATE mailbox SET parent_id = (SELECT id FROM mailbox WHERE name = 'y') WHERE name = 'x'")
    salvage(data_dir, tmp_path / "saved")
    assert SMALL[0] in saved(tmp_path / "saved").values()


NAMES = ["..", ".", "", "a/b", "a\\b", "x\x00", "%2F", "CON:", "~", "-rf", "ü" * 255, "n" * 255, "Ω/..", "a ", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_safe_names(name: str) -> None:
    safe = safe_name(name)
    assert safe not in ("", ".", "..")
    assert not set(safe) & set("/\\\x00:")
    assert len(safe.encode()) <= NAME_MAX_BYTES
    assert safe[0] not in ".~-"


def test_safe_names_stay_different() -> None:
    names = [*NAMES, "a%2Fb", "a", "a%20", "%..", "%", "%.", "n" * 254, "n" * 256, "Entwürfe", "INBOX"]
    assert len({safe_name(name) for name in names}) == len(names)
    assert safe_name("Entwürfe 2024 (alt)") == "Entwürfe 2024 (alt)"


@pytest.fixture
def cli(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setitem(main.COMMANDS, "check", main.Row("pochta.cli.check", "Look for contradictions in the store."))
    path = data_dir.parent / "pochta.toml"
    path.write_text(f'hostname = "mail.example.org"\ndata_dir = "{data_dir}"\n')
    monkeypatch.setenv("POCHTA_CONFIG", str(path))
    return CliRunner()


def test_command_tells_what_serve_would_refuse(cli: CliRunner, data_dir: Path) -> None:
    listener = '[[listener]]\nprotocol = "imap"\naddress = "127.0.0.1:0"\ntls = "implicit"\n'
    with (data_dir.parent / "pochta.toml").open("a") as file:
        file.write(f'[tls]\ncertificate = "gone.pem"\n{listener}')
    result = cli.invoke(main.root, ["check"])
    assert result.exit_code == 1
    assert "gone.pem" in result.stdout


def test_command_on_a_sound_store(cli: CliRunner) -> None:
    result = cli.invoke(main.root, ["check"])
    assert (result.exit_code, result.stdout) == (0, "0 errors, 0 notes\n")
    result = cli.invoke(main.root, ["check", "--json"])
    assert (result.exit_code, result.stdout) == (0, "[]\n")


def test_command_on_a_damaged_store(cli: CliRunner, data_dir: Path) -> None:
    change(data_dir, "UPDATE account SET used_bytes = used_bytes + 20")
    result = cli.invoke(main.root, ["check"])
    assert result.exit_code == 1
    assert result.stdout.startswith("error: account 1 stored")
    assert result.stdout.endswith("1 error, 0 notes\n")
    result = cli.invoke(main.root, ["check", "--json"])
    assert result.exit_code == 1
    [finding] = json.loads(result.stdout)
    assert finding.keys() == {"severity", "what", "where", "remedy"}


def test_command_with_notes_only(cli: CliRunner, data_dir: Path) -> None:
    (data_dir / "blobs" / ".new-1").write_bytes(b"x")
    result = cli.invoke(main.root, ["check"])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "0 errors, 1 note")


def test_command_salvage(cli: CliRunner, tmp_path: Path) -> None:
    result = cli.invoke(main.root, ["check", "--salvage", str(tmp_path / "saved")])
    assert (result.exit_code, result.stdout[:10]) == (0, "5 messages")
    assert saved(tmp_path / "saved") == WHOLE
    result = cli.invoke(main.root, ["check", "--salvage", str(tmp_path / "saved")])
    assert result.exit_code == 2


def test_altered_bytes_are_found(data_dir: Path) -> None:
    change(data_dir, "UPDATE blob_inline SET bytes = CAST(x'00' || substr(bytes, 2) AS BLOB) WHERE blob_id = 1")
    assert [one.what for one in check.check(data_dir) if one.where == "blob 1"] == ["the bytes were altered"]
