"""CATENATE: parts and URLs become a message; what cannot be had, and what would be too much, leaves nothing behind."""

import pytest
from imap_raw import Imap, files_become, message

from pochta.config import Limits
from pochta.testing import Server

SOURCE = (
    b"From: a@example.net\r\nSubject: source\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>two\r\n--b--\r\n"
)


def text(data: bytes) -> bytes:
    return b"TEXT {%d+}\r\n%b" % (len(data), data)


def url(name: str) -> bytes:
    return b'URL "%b"' % name.encode()


def catenate(imap: Imap, *parts: bytes, words: bytes = b"APPEND Drafts") -> bytes:
    return imap.do(b"%b CATENATE (%b)" % (words, b" ".join(parts)))[-1]


def validity(imap: Imap, mailbox: str) -> int:
    [line] = imap.ok(f"STATUS {mailbox} (UIDVALIDITY)")
    return int(line.rstrip(b")").split()[-1])


@pytest.mark.rfc(4469, "3")
@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("/INBOX/;UID=1", SOURCE),
        ("/inbox;UIDVALIDITY=%d/;UID=1/;section=HEADER", SOURCE.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"),
        ("/INBOX/;UID=1/;SECTION=1", b"one"),
        ("/INBOX/;UID=1/;SECTION=2.MIME", b"Content-Type: text/html\r\n\r\n"),
        ("/INBOX/;UID=1/;SECTION=HEADER.FIELDS%%20(SUBJECT)", b"Subject: source\r\n\r\n"),
        ("/INBOX/;UID=1/;SECTION=2/;PARTIAL=3.2", b"tw"),
        (f"/INBOX/;UID=1/;PARTIAL={len(SOURCE) - 4}", b"--\r\n"),
        (";UID=1/;SECTION=1", b"one"),
        ("INBOX/;UID=1/;SECTION=1", b"one"),
    ],
)
def test_catenate_takes_what_a_url_names(pochta: Server, name: str, want: bytes) -> None:
    with Imap(pochta) as imap:
        imap.append(SOURCE)
        name = name.replace("%d", str(validity(imap, "INBOX"))).replace("%%", "%")
        assert catenate(imap, text(b"A: b\r\n\r\n<"), url(name), text(b">")).startswith(b"OK [APPENDUID ")
        # RFC 4469 §3: neither \Seen nor the selected mailbox changes
        assert imap.fetch("FETCH 1 FLAGS") == b"FLAGS (\\Recent)"
        imap.ok("SELECT Drafts")
        assert imap.literal("FETCH 1 BODY.PEEK[]") == b"A: b\r\n\r\n<" + want + b">"


@pytest.mark.rfc(4469, "4.1")
@pytest.mark.parametrize(
    "name",
    [
        "imap://example.org/INBOX/;UID=1",
        "//example.org/INBOX/;UID=1",
        "http://example.org/",
        "file:///etc/passwd",
        "/INBOX/;UID=2",
        "/INBOX/;UID=0",
        "/INBOX;UIDVALIDITY=1/;UID=1",
        "/INBOX/;UID=1/;SECTION=9",
        "/INBOX/;UID=1/;SECTION=9.MIME",
        "/INBOX/;UID=1/;SECTION=nonsense",
        "/INBOX/;UID=1;URLAUTH=anonymous:internal:0",
        "/Nowhere/;UID=1",
        "/Other%20Users/bert@example.org/INBOX/;UID=1",
        "/..%2F../;UID=1",
        "",
    ],
)
def test_what_no_url_names(pochta: Server, name: str) -> None:
    pochta.add_account("bert@example.org", "secret")
    with Imap(pochta, user="bert@example.org") as bert:
        bert.append(SOURCE)
    with Imap(pochta) as imap:
        imap.append(SOURCE)
        big = text(b"A: b\r\n\r\n" + b"x" * 100_000)
        answer = catenate(imap, big, url(name), text(b"."))
        assert answer.startswith(b"NO [BADURL " + name.encode() + b"] "), answer
        assert imap.do("STATUS Drafts (MESSAGES)")[0] == b"* STATUS Drafts (MESSAGES 0)"
    files_become(pochta, 0)


def test_a_bad_url_that_would_break_the_line(pochta: Server) -> None:
    with Imap(pochta) as imap:
        name = b"/x]\xff\r\n/;UID=1"
        assert catenate(imap, b"URL {%d+}\r\n%b" % (len(name), name)).startswith(b"NO [BADURL /x????/;UID=1] ")


@pytest.mark.rfc(4469, "4.2")
def test_too_big_parts_are_refused_before_they_come(pochta: Server) -> None:
    with Server(limits=Limits(message_size_bytes=70_000)) as server:
        server.add_account("anna@example.org", "secret")
        with Imap(server) as imap:
            imap.append(message(1, b"x" * 40_000))
            assert catenate(imap, url("/INBOX/;UID=1"), url("/INBOX/;UID=1")).startswith(b"NO [TOOBIG] ")
            tag = imap.begin(b"APPEND Drafts CATENATE (URL /INBOX/;UID=1 TEXT {40000}")
            assert imap.end(tag)[-1].startswith(b"NO [TOOBIG] ")
            tag = imap.begin(b"APPEND Drafts CATENATE (TEXT {70001}")
            assert imap.end(tag)[-1].startswith(b"NO [TOOBIG] ")
            assert imap.do("NOOP") == [b"OK NOOP completed"]
        files_become(server, 0)


def test_how_many_parts_one_command_has(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(SOURCE)
        part = url(";UID=1/;SECTION=1")
        assert catenate(imap, text(b"A: b\r\n\r\n"), *[part] * 999).startswith(b"OK ")
        assert catenate(imap, text(b"A: b\r\n\r\n"), *[part] * 1000).startswith(b"NO [LIMIT] ")
        assert catenate(imap, *[b"TEXT {1+}\r\nx"] * 3000).startswith(b"NO [LIMIT] ")
        assert imap.do("NOOP") == [b"OK NOOP completed"]


@pytest.mark.rfc(3502, "6.3.11")
@pytest.mark.rfc(4469, "1")
def test_several_messages_of_parts_all_or_none(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(SOURCE)
        good = b"CATENATE (%b)" % url("/INBOX/;UID=1")
        answer = imap.do(b"APPEND Drafts (\\Seen) %b (\\Draft) {12+}\r\nA: b\r\n\r\ncd\r\n %b" % (good, good))[-1]
        assert answer.startswith(b"OK [APPENDUID ")
        assert b" 1:3] " in answer
        bad = b"CATENATE (%b)" % url("/INBOX/;UID=9")
        assert imap.do(b"APPEND Drafts %b %b" % (good, bad))[-1].startswith(b"NO [BADURL ")
        assert imap.do("STATUS Drafts (MESSAGES)")[0] == b"* STATUS Drafts (MESSAGES 3)"


def test_a_message_without_octets_is_refused(pochta: Server) -> None:
    with Imap(pochta) as imap:
        assert catenate(imap, b"TEXT {0+}\r\n").startswith(b"NO [CANNOT] ")


@pytest.mark.rfc(6855, "4")
def test_utf8_accept_data_is_for_who_has_enabled_it(pochta: Server) -> None:
    part = b"UTF8 (~{%d+}\r\n%b)" % (len(head := "Subject: é\r\n\r\nx\r\n".encode()), head)
    with Imap(pochta) as imap:
        assert imap.do(b"APPEND INBOX " + part)[-1].startswith(b"NO ")
        assert catenate(imap, part).startswith(b"NO ")
        imap.ok("ENABLE UTF8=ACCEPT")
        assert imap.do(b"APPEND INBOX " + part)[-1].startswith(b"OK ")
        assert catenate(imap, part, text(b"y\r\n")).startswith(b"OK ")
        assert imap.literal("FETCH 1 BODY.PEEK[]") == head
