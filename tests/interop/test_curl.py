"""curl, with each of the protocols."""

from pathlib import Path
from typing import Final

import pytest
from interop_messages import MESSAGES, name_of
from interop_programs import Done, Program
from interop_sides import PASSWORD, Account
from msgspec.structs import replace

from pochta.config import Settings
from pochta.testing import Server

_CERTIFICATE: Final = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]


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


class AskingServer(Server):
    """Asks users for certificates of the authority in `client_ca`."""

    client_ca: Path

    def _settings(self) -> Settings:
        settings = super()._settings()
        return replace(settings, tls=replace(settings.tls, client_ca=self.client_ca))


@pytest.mark.parametrize("scheme", ["imap", "imaps", "pop3", "pop3s", "smtp", "smtps"])
def test_external(scheme: str, tool: Program) -> None:
    anna, other = "anna@example.org", "boris@example.org"
    names = [f"-addext=subjectAltName=email:{anna}", "-addext=basicConstraints=critical,CA:FALSE"]
    names = [word for one in names for word in one.split("=", 1)]
    tool("openssl", *_CERTIFICATE, "-subj", "/CN=Authority", "-keyout", "ca.key", "-out", "ca.pem")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=anna", *names]
    tool("openssl", *_CERTIFICATE, *signed, "-keyout", "anna.key", "-out", "anna.pem")
    server = AskingServer(with_tls=True)
    server.client_ca = tool.home / "ca.pem"
    with server:
        account = Account(server, anna)
        server.add_account(other, PASSWORD)
        port = getattr(server, f"{ {'smtp': 'submission', 'smtps': 'submissions'}.get(scheme, scheme) }_port")
        shown = ["--cacert", server.certificate, "--cert", "anna.pem", "--key", "anna.key", "--ssl-reqd"]
        args = ["-sS", "--max-time", "30", "--login-options", "AUTH=EXTERNAL", *shown, f"{scheme}://localhost:{port}/"]
        if scheme.startswith("smtp"):
            own = MESSAGES["plain"].replace(b"boris@elsewhere.example", anna.encode())
            (tool.home / "own").write_bytes(own)
            args += ["--mail-from", anna, "--mail-rcpt", anna, "-T", "own"]
        tool("curl", "-u", f"{anna}:", *args)
        denied = tool("curl", "-u", f"{other}:", *args, allowed_codes={67})
        assert b"denied" in denied.err
        assert len(account.contents("INBOX")) == scheme.startswith("smtp")
