"""curl, with each of the protocols."""

import pytest
from interop_messages import MESSAGES, name_of
from interop_programs import Done, Program
from interop_sides import PASSWORD, Account

from pochta.testing import Server


def curl(tool: Program, account: Account, scheme: str, path: str, *args: str, stdin: bytes = b"") -> Done:
    """Run curl as the account's owner, with verified TLS; `scheme` names the port."""
    ports = {"smtp": "submission", "smtps": "submissions"}
    port = getattr(account.server, f"{ports.get(scheme, scheme)}_port")
    sign_in = ["-u", f"{account.address}:{PASSWORD}", "--cacert", str(account.server.certificate), "--ssl-reqd"]
    return tool("curl", "-sS", "--max-time", "30", *sign_in, f"{scheme}://localhost:{port}/{path}", *args, stdin=stdin)


@pytest.mark.parametrize("scheme", ["imap", "imaps"])
def test_imap(scheme: str, tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, f"curl-{scheme}@example.org")
    for mailbox, name in (("INBOX", "eight_bit"), ("Archive", "big")):
        (tool.home / name).write_bytes(MESSAGES[name])
        curl(tool, account, scheme, mailbox, "-T", name)
    assert curl(tool, account, scheme, "INBOX;UID=1").out == MESSAGES["eight_bit"]
    assert curl(tool, account, scheme, "Archive;MAILINDEX=1").out == MESSAGES["big"]
    assert b"FLAGS (" in curl(tool, account, scheme, "INBOX", "-X", "UID FETCH 1 FLAGS").out
    assert curl(tool, account, scheme, "INBOX;UID=1;SECTION=HEADER.FIELDS%20(SUBJECT)").out.startswith(b"Subject: ")
    assert curl(tool, account, scheme, "INBOX?SUBJECT%20eight").out == b"* SEARCH 1\r\n"
    assert b'"/" Archive\r\n' in curl(tool, account, scheme, "").out
    curl(tool, account, scheme, "INBOX", "-X", r"STORE 1 +FLAGS.SILENT \Deleted")
    curl(tool, account, scheme, "INBOX", "-X", "EXPUNGE")
    assert {name for box in account.mailboxes().values() for name in box} == {"big"}


@pytest.mark.parametrize("scheme", ["pop3", "pop3s"])
def test_pop3(scheme: str, tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, f"curl-{scheme}@example.org")
    for name in ("dots", "eight_bit", "unended", "long_line"):
        account.append("INBOX", name)
    sizes = [len(MESSAGES[name]) for name in ("dots", "eight_bit")]
    assert curl(tool, account, scheme, "").out.startswith(b"1 %d\r\n2 %d\r\n" % (sizes[0], sizes[1]))
    assert curl(tool, account, scheme, "1").out == MESSAGES["dots"]
    assert curl(tool, account, scheme, "2").out == MESSAGES["eight_bit"]
    assert curl(tool, account, scheme, "3").out == MESSAGES["unended"] + b"\r\n"  # POP3 sends lines
    assert curl(tool, account, scheme, "4").out == MESSAGES["long_line"]
    before = curl(tool, account, scheme, "", "-X", "UIDL").out.splitlines()
    curl(tool, account, scheme, "2", "-X", "DELE", "--list-only")
    after = curl(tool, account, scheme, "", "-X", "UIDL").out.splitlines()
    assert [line.split()[1] for line in after] == [before[i].split()[1] for i in (0, 2, 3)]


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_submission(scheme: str, tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, f"curl-{scheme}@example.org")
    addresses = ["--mail-from", account.address, "--mail-rcpt", account.address]
    own = MESSAGES["dots"].replace(b"boris@elsewhere.example", account.address.encode())
    curl(tool, account, scheme, "client.example", *addresses, "-T", "-", stdin=own)
    [content] = account.contents("INBOX")
    assert name_of(content) == "dots"
    assert content.endswith(own.partition(b"\r\n\r\n")[2])
