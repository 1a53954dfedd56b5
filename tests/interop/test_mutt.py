"""mutt and neomutt without a person: they send, keep a copy in Sent, read a mailbox and change it."""

import email
import email.policy
import hashlib
import re
from urllib.parse import quote

import pytest
from interop_maildir import Maildirs
from interop_messages import MESSAGES
from interop_programs import Program, documented
from interop_sides import PASSWORD, Account

from pochta.testing import Server

# What a person would be asked, and what must not change under the hands of a test
UNATTENDED = (
    'set confirmcreate=no confirmappend=no delete=yes quit=yes move=no wait_key=no sleep_time=0 header_cache=""\n'
)
_COUNTS = re.compile(rb"^(?:Content-Length|Lines): \d+\n", re.MULTILINE)  # what mutt adds to a copy
BODY = "Привет!\n.\nFrom the start of a line\n"


@pytest.fixture(params=["mutt", "neomutt"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def configured(tool: Program, account: Account) -> str:
    server = account.server
    user = quote(account.address, safe="")
    changes = {
        "anna%40example.org@mail.example.org:587": f"{user}@localhost:{server.submission_port}",
        "anna@example.org": account.address,
        "mail.example.org:993": f"localhost:{server.imaps_port}",
        '"secret"': f'"{PASSWORD}"',
    }
    trust = f'set ssl_ca_certificates_file="{server.certificate}" certificate_file="{tool.home}/accepted"\n'
    return str(tool.write("muttrc", trust + UNATTENDED + documented("mutt", changes)))


def test_sends_and_keeps_a_copy(program: str, tool: Program, tls_server: Server) -> None:
    sender = Account(tls_server, f"{program}-sends@example.org")
    receiver = Account(tls_server, f"{program}-receives@example.org")
    hidden = Account(tls_server, f"{program}-hidden@example.org")
    attachment = tool.home / "отчёт.bin"
    attachment.write_bytes(bytes(range(256)) * 4_000)
    args = ["-F", configured(tool, sender), "-s", "Отчёт за март", "-b", hidden.address, "-a", attachment]
    tool(program, *args, "--", receiver.address, stdin=BODY.encode())

    copies = sender.contents("Sent")
    assert len(copies) == (program == "mutt")  # neomutt: "Fcc to an IMAP mailbox is not supported in batch mode"
    for [content] in (receiver.contents("INBOX"), hidden.contents("INBOX")):
        message = email.message_from_bytes(content, policy=email.policy.default)
        text, file = message.iter_parts()
        assert message["Subject"] == "Отчёт за март"
        assert message["Bcc"] is None
        assert text.get_content().replace("\r\n", "\n") == BODY
        assert (file.get_filename(), file.get_content()) == ("отчёт.bin", attachment.read_bytes())
        assert all(content.endswith(copy.partition(b"\r\n\r\n")[2]) for copy in copies)


def test_reads_moves_and_deletes(program: str, tool: Program, tls_server: Server) -> None:
    account = Account(tls_server, f"{program}-reads@example.org")
    for name in ("plain", "eight_bit", "dots", "multipart", "big"):
        account.append("INBOX", name, r"\Seen")
    keys = [
        f"<tag-pattern>~A<enter><tag-prefix><copy-message>{tool.home}/copy<enter>",
        "<untag-pattern>~A<enter><limit>all<enter>",
        "<tag-pattern>~i plain@<enter><tag-prefix><save-message>=Archive<enter>",
        "<untag-pattern>~A<enter><delete-pattern>~i dots@<enter>",
        "<tag-pattern>~i multipart@<enter><tag-prefix><flag-message><sync-mailbox><quit>",
    ]
    tool.on_terminal(program, "-F", configured(tool, account), "-e", f"push '{''.join(keys)}'")

    kept = Maildirs(tool.home).kept("copy")
    copies = {name: hashlib.sha256(_COUNTS.sub(b"", one.content)).hexdigest() for name, one in kept.items()}
    names = ("plain", "eight_bit", "dots", "multipart", "big")
    assert copies == {name: hashlib.sha256(MESSAGES[name].replace(b"\r\n", b"\n")).hexdigest() for name in names}
    left = {
        box: {name: one.flags for name, one in content.items()}
        for box, content in account.mailboxes().items()
        if content
    }
    flagged = {r"\Seen", r"\Flagged"}
    assert left == {
        "INBOX": {"eight_bit": {r"\Seen"}, "multipart": flagged, "big": {r"\Seen"}},
        "Archive": {"plain": {r"\Seen"}},
        "Trash": {"dots": {r"\Seen"}},
    }
