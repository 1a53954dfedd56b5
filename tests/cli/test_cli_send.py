"""`pochta send`: who may send what, where it goes, and what the message looks like."""

import email
import email.policy
import imaplib
import json
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pochta.cli.main import root
from pochta.testing import Server
from pochta.testing.resolver import ZoneResolver


def invoke(*words: str, input: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(root, words, input=input, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


class Home:
    """A store of a server that runs; `fetch` reads what came."""

    def __init__(self, server: Server, config: Path) -> None:
        self.server = server
        self.config = config

    def run(self, *words: str, input: str | bytes | None = None) -> Result:
        return invoke("-c", str(self.config), *words, input=input)

    def fetch(self) -> EmailMessage:
        with imaplib.IMAP4(self.server.host, self.server.imap_port) as imap:
            imap.login("anna@example.org", "secret")
            imap.select()
            found = imap.fetch("*", "(BODY[])")[1][0]
            assert isinstance(found, tuple)
            message = email.message_from_bytes(found[1], policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    config = tmp_path / "pochta.toml"
    resolver = ZoneResolver()
    for name in ("b.test", "relay.test", "relayed.test"):
        resolver.fail(name)
    with Server(data_dir=tmp_path, resolver=resolver) as server:
        config.write_text(
            'hostname = "mail.example.org"\npostmaster = "anna@example.org"\n[limits]\nmin_free_bytes = 0\n'
            '[[route]]\nname = "office"\nrecipients = ["relayed.test"]\nhosts = ["relay.test"]\n'
        )
        server.add_account("anna@example.org", "secret")
        server.add_alias("info@example.org", ["anna@example.org"])
        yield Home(server, config)


def test_text_is_delivered_and_queued(home: Home) -> None:
    result = home.run("send", "--subject", "Grüße", "info@example.org", "x@b.test", "y@relayed.test", input="Привет\n")
    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == [
        "  info@example.org: delivered",
        "  x@b.test: queued for b.test",
        "  y@relayed.test: queued for route:office",
    ]
    message = home.fetch()
    assert message["Subject"] == "Grüße"
    assert message["From"] == "anna@example.org"
    assert message["To"] == "info@example.org, x@b.test, y@relayed.test"
    assert message["Date"] is not None
    assert message["Message-ID"] in result.output
    assert message["Received"].startswith("by mail.example.org with local id command-")
    assert message.get_content() == "Привет\r\n"


def test_files_are_attached(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n", encoding="utf-8")
    (tmp_path / "b.eml").write_bytes(b"Subject: x\n\n\x00\xff")
    (tmp_path / "c.tar.gz").write_bytes(bytes(range(256)))
    words = [word for name in ("a.txt", "b.eml", "c.tar.gz") for word in ("--attach", str(tmp_path / name))]
    assert home.run("send", *words, "anna@example.org", input="see below\n").exit_code == 0
    parts = [(one.get_filename(), one.get_content_type(), one.get_content()) for one in home.fetch().iter_attachments()]
    assert parts == [
        ("a.txt", "text/plain", "text\n"),
        ("b.eml", "application/octet-stream", b"Subject: x\n\n\x00\xff"),
        ("c.tar.gz", "application/octet-stream", bytes(range(256))),
    ]


@pytest.mark.rfc(6409, "8")
def test_raw_message_gets_what_is_missing_and_loses_bcc(home: Home) -> None:
    raw = b"From: Anna <Anna@Example.org>\nBcc: secret@b.test\nSubject: raw\n\n.\nbody\n"
    result = home.run("send", "--raw", "--json", "anna@example.org", input=raw)
    found = json.loads(result.output)
    message = home.fetch()
    assert (message["Bcc"], message["Subject"], message["Message-ID"]) == (None, "raw", found["message_id"])
    assert message.get_content() == ".\r\nbody\r\n"
    assert found["recipients"] == [{"address": "anna@example.org", "delivered": True, "queued": []}]


def test_bounces_come_back_and_the_trail_says_who_sent_it(home: Home) -> None:
    sent = json.loads(home.run("send", "--json", "x@b.test", input="x\n").output)
    trail = json.loads(home.run("trace", sent["message_id"], "--json").output)[0]
    assert (trail["trail"], trail["role"], trail["sender"]) == (sent["trail"], "command", "anna@example.org")
    assert trail["user"]
    shown = json.loads(home.run("queue", "show", "1", "--json").output)
    assert shown["report_to"] == "anna@example.org"


FROM_US = b"From: anna@example.org\n"


@pytest.mark.parametrize(
    ("words", "input", "code", "error"),
    [
        (("--from", "x@else.test", "a@b.test"), b"x", 1, "cannot send as x@else.test: else.test is not kept here"),
        (("--raw", "a@b.test"), b"From: x@else.test\n\nx", 1, "cannot send as x@else.test: else.test is not kept here"),
        (("--raw", "--from", "anna@example.org", "a@b.test"), b"From: x@else.test\n\nx", 1, "cannot send as x@else"),
        (("--raw", "a@b.test"), b"Subject: x\n\nx", 1, "one From field"),
        (("--raw", "a@b.test"), FROM_US + FROM_US + b"\nx", 1, "one From field"),
        (("--raw", "a@b.test"), FROM_US + b"\na\rb", 1, "a CR that is not followed by LF"),
        (("--raw", "--subject", "x", "a@b.test"), b"", 2, "--raw takes a message as it is"),
        (("--subject", "x\nBcc: y@b.test", "a@b.test"), b"x", 2, "a subject is one line of text"),
        (("a@b.test",), b"\xff", 2, "the text is not UTF-8"),
        (("nobody@example.org",), b"x", 1, "nobody@example.org: there is no such user here"),
        (("--attach", "/nowhere/file", "a@b.test"), b"x", 2, "/nowhere/file"),
        (("a b",), b"x", 2, "is not an address"),
        ((), b"x", 2, "Missing argument"),
    ],
)
def test_refused(home: Home, words: tuple[str, ...], input: bytes, code: int, error: str) -> None:
    result = home.run("send", *words, input=input)
    assert result.exit_code == code
    assert error in result.stderr
    assert home.run("queue", "--json").output == "[]\n"


def test_large_message_is_refused(home: Home) -> None:
    text = home.config.read_text().replace("min_free_bytes = 0", "min_free_bytes = 0\nmessage_size_bytes = 65536")
    home.config.write_text(text, encoding="utf-8")
    result = home.run("send", "a@b.test", input=b"x\n" * 40_000)
    assert result.exit_code == 1
    assert "over 65536 bytes" in result.stderr


@pytest.mark.rfc(6532, "3.2")
def test_address_in_utf8(home: Home) -> None:
    home.run("domain", "add", "почта.рф")
    sent = home.run("send", "--from", "иван@почта.рф", "анна@b.test", "anna@example.org", input="x\n")
    assert sent.exit_code == 0
    assert home.fetch()["From"] == "иван@почта.рф"
