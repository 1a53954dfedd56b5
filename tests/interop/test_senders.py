"""Programs that send mail: to another server's port 25, and as a user who signs in."""

import re
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from interop_messages import MESSAGES, assert_whole, name_of
from interop_programs import Program, documented
from interop_sides import PASSWORD, Account

from pochta.cli.main import root as pochta_command
from pochta.config import Auth
from pochta.testing import Server

LETTER: Final = (
    "From: Анна <{sender}>\nTo: boris@example.org\nBcc: {hidden}\nSubject: Отчёт\nMIME-Version: 1.0\n"
    "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nПривет!\n.\n..\nКонец\n"
)
BODY: Final = "Привет!\r\n.\r\n..\r\nКонец\r\n".encode()


@pytest.fixture
def sender(request: pytest.FixtureRequest, tls_server: Server) -> Account:
    """Who sends: an account of this test's own."""
    return Account(tls_server, f"{_slug(request)}@example.org")


@pytest.fixture
def receiver(request: pytest.FixtureRequest, tls_server: Server) -> Account:
    """Whom it goes to."""
    return Account(tls_server, f"{_slug(request)}-to@example.org")


def _slug(request: pytest.FixtureRequest) -> str:
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")


def _swaks_data(tool: Program, content: bytes) -> str:
    """What `--data` takes: a file, whose last line swaks ends itself."""
    path = tool.home / "data"
    path.write_bytes(content.removesuffix(b"\r\n"))
    return f"@{path}"


def _msmtp_configuration(
    tool: Program, sender: Account, port: str, mechanism: str, *, password: str = PASSWORD
) -> Path:
    server = {
        "host mail.example.org": f"host localhost\ntls_trust_file {sender.server.certificate}",
        "port 465": f"port {getattr(sender.server, port)}",
        "anna@example.org": sender.address,
        "auth plain": f"auth {mechanism}",
        "password secret": f"password {password}",
        "tls_starttls off": f"tls_starttls {'on' if port == 'submission_port' else 'off'}",
    }
    return tool.write("msmtprc", documented("msmtp", server))


def letter(sender: Account, receiver: Account) -> bytes:
    return LETTER.format(sender=sender.address, hidden=receiver.address).encode()


def assert_sent(sender: Account, receiver: Account) -> None:
    """The letter stands at the receiver: whole, with what was missing added and what was to be hidden gone."""
    [content] = receiver.contents("INBOX")
    header, _, body = content.partition(b"\r\n\r\n")
    assert body == BODY
    assert header.startswith(b"Return-Path: <%b>\r\nReceived: " % sender.address.encode())
    assert len(re.findall(rb"^(?:Date|Message-ID): ", header, re.MULTILINE)) == 2
    assert "From: Анна".encode() in header
    assert b"\r\nBcc:" not in header


@pytest.mark.parametrize("name", ["dots", "eight_bit", "multipart", "big"])
def test_swaks_delivers(name: str, tool: Program, tls_server: Server, receiver: Account) -> None:
    data = _swaks_data(tool, MESSAGES[name])
    tls = ["--tls", "--tls-verify", "--tls-ca-path", tls_server.certificate]
    addresses = ["--from", "boris@elsewhere.example", "--to", receiver.address]
    server = ["--server", "localhost", "--port", str(tls_server.smtp_port), "--helo", "elsewhere.example"]
    tool("swaks", *server, *tls, *addresses, "--data", data, "--silent", "2")
    [content] = receiver.contents("INBOX")
    assert_whole(content)
    assert name_of(content) == name


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("port", ["submission_port", "submissions_port"])
def test_swaks_submits(
    mechanism: str, port: str, tool: Program, tls_server: Server, sender: Account, receiver: Account
) -> None:
    data = _swaks_data(tool, letter(sender, receiver).replace(b"\n", b"\r\n"))
    tls = ["--tls" if port == "submission_port" else "--tls-on-connect", "--tls-ca-path", tls_server.certificate]
    sign_in = ["--auth", mechanism, "--auth-user", sender.address, "--auth-password", PASSWORD]
    addresses = ["--from", sender.address, "--to", receiver.address]
    server = ["--server", "localhost", "--port", str(getattr(tls_server, port)), "--tls-verify"]
    tool("swaks", *server, *tls, *sign_in, *addresses, "--data", data, "--silent", "2")
    assert_sent(sender, receiver)


def test_swaks_is_refused_with_a_wrong_password(tool: Program, tls_server: Server, sender: Account) -> None:
    sign_in = ["--auth", "PLAIN", "--auth-user", sender.address, "--auth-password", "wrong"]
    server = ["--server", "localhost", "--port", str(tls_server.submissions_port), "--tls-on-connect"]
    done = tool("swaks", *server, *sign_in, "--to", sender.address, "--from", sender.address, allowed_codes={28})
    assert b"535 5.7.8" in done.out + done.err


def test_swaks_delivers_by_lmtp(tool: Program, tls_server: Server, receiver: Account) -> None:
    data = _swaks_data(tool, MESSAGES["dots"])
    addresses = ["--from", "boris@elsewhere.example", "--to", f"{receiver.address},nobody@example.org"]
    server = ["--server", "localhost", "--port", str(tls_server.lmtp_port), "--protocol", "LMTP"]
    done = tool("swaks", *server, *addresses, "--data", data, "--silent", "2")
    assert done.out.splitlines() == [b"<** 550 5.1.1 There is no such user here"]
    [content] = receiver.contents("INBOX")
    assert_whole(content)


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("port", ["submission_port", "submissions_port"])
def test_msmtp_submits(
    mechanism: str, port: str, tool: Program, tls_server: Server, sender: Account, receiver: Account
) -> None:
    rc = _msmtp_configuration(tool, sender, port, mechanism)
    tool("msmtp", "-C", rc, receiver.address, stdin=letter(sender, receiver))
    assert_sent(sender, receiver)


@pytest.mark.rfc(7677, "3")
def test_msmtp_submits_with_scram_and_an_app_password(tool: Program) -> None:
    with Server(with_tls=True, auth=Auth(scram_sha_256=True)) as server:
        sender = Account(server, "anna@example.org")
        receiver = Account(server, "boris@example.org")
        rc = tool.write("pochta.toml", f'hostname = "localhost"\ndata_dir = "{server.data_dir}"\n')
        words = ["-c", str(rc), "account", "app-password", "add", sender.address, "--label", "msmtp", "--scope", "smtp"]
        made = CliRunner().invoke(pochta_command, words)
        assert made.exit_code == 0, made.output
        rc = _msmtp_configuration(tool, sender, "submissions_port", "scram-sha-256", password=made.output.strip())
        tool("msmtp", "-C", rc, receiver.address, stdin=letter(sender, receiver))
        assert_sent(sender, receiver)


def test_msmtp_may_not_send_for_another(tool: Program, tls_server: Server, sender: Account, receiver: Account) -> None:
    rc = _msmtp_configuration(tool, sender, "submission_port", "plain")
    args = ["-C", rc, "-f", receiver.address, receiver.address]
    done = tool("msmtp", *args, stdin=letter(sender, receiver), allowed_codes={65, 69, 77})
    assert b"5.7." in done.err
    assert receiver.contents("INBOX") == []
