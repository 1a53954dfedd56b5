"""FETCH of every item, over a message with parts, and what it does to \\Seen. RFC 3501 6.4.5, 7.4.2."""

import re

import pytest
from imap_raw import Imap, fill, message

from pochta.testing import Server

INNER = (
    b"From: inner@example.net\r\nSubject: inside\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/alternative; boundary=in\r\n\r\n"
    b"--in\r\nContent-Type: text/plain\r\n\r\ninner text\r\n"
    b"--in\r\nContent-Type: text/html\r\n\r\n<p>inner</p>\r\n--in--\r\n"
)
MIXED = (
    b"From: a@example.net\r\nTo: anna@example.org\r\nSubject: parts\r\nX-Own: 1\r\nX-Own: 2\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=out\r\n\r\npreamble\r\n"
    b"--out\r\nContent-Type: text/plain; charset=utf-8\r\nContent-ID: <one>\r\n\r\nfirst \xd0\x9f\r\n"
    b"--out\r\nContent-Type: message/rfc822\r\n\r\n" + INNER + b"\r\n"
    b"--out\r\nContent-Type: application/octet-stream; name=x.bin\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n"
    b"--out--\r\n"
)
HEADER, _, TEXT = MIXED.partition(b"\r\n\r\n")
HEADER += b"\r\n\r\n"
SECTIONS = [
    ("BODY.PEEK[]", MIXED),
    ("BODY.PEEK[HEADER]", HEADER),
    ("BODY.PEEK[TEXT]", TEXT),
    ("RFC822.HEADER", HEADER),
    ("BODY.PEEK[1]", b"first \xd0\x9f"),
    ("BODY.PEEK[1.MIME]", b"Content-Type: text/plain; charset=utf-8\r\nContent-ID: <one>\r\n\r\n"),
    ("BODY.PEEK[2]", INNER),
    ("BODY.PEEK[2.HEADER]", INNER.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"),
    ("BODY.PEEK[2.TEXT]", INNER.partition(b"\r\n\r\n")[2]),
    ("BODY.PEEK[2.1]", b"inner text"),
    ("BODY.PEEK[2.2]", b"<p>inner</p>"),
    ("BODY.PEEK[2.2.MIME]", b"Content-Type: text/html\r\n\r\n"),
    ("BODY.PEEK[2.HEADER.FIELDS (SUBJECT)]", b"Subject: inside\r\n\r\n"),
    ("BODY.PEEK[3]", b"AAEC"),
    ("BODY.PEEK[HEADER.FIELDS (subject FROM)]", b"From: a@example.net\r\nSubject: parts\r\n\r\n"),
    ("BODY.PEEK[HEADER.FIELDS (X-Own)]", b"X-Own: 1\r\nX-Own: 2\r\n\r\n"),
    ("BODY.PEEK[HEADER.FIELDS (X-None)]", b"\r\n"),
    ("BODY.PEEK[HEADER.FIELDS.NOT (X-Own To Subject MIME-Version Content-Type)]", b"From: a@example.net\r\n\r\n"),
    ("BODY.PEEK[]<0.10>", MIXED[:10]),
    ("BODY.PEEK[]<5.100000>", MIXED[5:]),
    ("BODY.PEEK[TEXT]<3.4>", TEXT[3:7]),
    ("BODY.PEEK[]<100000.5>", b""),
    ("BODY.PEEK[HEADER.FIELDS (SUBJECT)]<2.6>", b"bject:"),
]


@pytest.mark.rfc(3501, "6.4.5")
def test_sections_of_a_message_with_parts(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(MIXED)
        for item, expected in SECTIONS:
            assert imap.literal(f"FETCH 1 {item}") == expected, item
        assert imap.fetch("FETCH 1 FLAGS") == b"FLAGS (\\Recent)"
        assert imap.fetch("FETCH 1 BODY.PEEK[7]") == b"BODY[7] NIL"
        # the label says what was asked, without PEEK and with the origin of a partial
        assert imap.fetch("FETCH 1 body.peek[header.fields (x-none)]<0.5>").startswith(
            b"BODY[HEADER.FIELDS (x-none)]<0> {2}"
        )


@pytest.mark.rfc(3501, "6.4.5")
@pytest.mark.parametrize(
    ("item", "is_seen"),
    [
        ("BODY[]", True),
        ("BODY[HEADER]", True),
        ("BODY[HEADER.FIELDS (SUBJECT)]", True),
        ("BODY[1]<0.2>", True),
        ("RFC822", True),
        ("RFC822.TEXT", True),
        ("RFC822.HEADER", False),
        ("BODY.PEEK[TEXT]", False),
        ("(ENVELOPE BODY BODYSTRUCTURE RFC822.SIZE INTERNALDATE UID)", False),
    ],
)
def test_which_items_set_seen(pochta: Server, item: str, is_seen: bool) -> None:
    fill(pochta, 1)
    with Imap(pochta, mailbox=None) as imap:
        imap.ok("EXAMINE INBOX")
        imap.ok(f"FETCH 1 {item}")
        assert imap.fetch("FETCH 1 FLAGS") == b"FLAGS (\\Recent)"
        imap.ok("SELECT INBOX")
        [answer] = imap.ok(f"FETCH 1 {item}")
        assert (b"FLAGS (\\Seen \\Recent)" in answer) is is_seen
        [answer] = imap.ok(f"FETCH 1 {item}")
        assert b"FLAGS" not in answer
        assert (b"\\Seen" in imap.fetch("FETCH 1 FLAGS")) is is_seen


@pytest.mark.rfc(3501, "6.4.5")
def test_macros(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        fast = imap.fetch("FETCH 1 FAST")
        assert imap.fetch("FETCH 1 (FLAGS INTERNALDATE RFC822.SIZE)") == fast
        everything = imap.fetch("FETCH 1 ALL")
        assert everything == fast + b" " + imap.fetch("FETCH 1 ENVELOPE")
        assert set(imap.fetch("FETCH 1 FULL")) == set(everything + b" " + imap.fetch("FETCH 1 BODY"))
        size = len(message(1))
        assert b"RFC822.SIZE %d" % size in fast


def test_bodystructure_of_parts(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(MIXED)
        structure = imap.fetch("FETCH 1 BODYSTRUCTURE").lower()
        for part in (
            b'("text" "plain" ("charset" "utf-8") "<one>" nil "7bit" 8 ',
            b'"message" "rfc822"',
            b'"alternative"',
        ):
            assert part in structure or part.replace(b'"7bit"', b'"8bit"') in structure
        assert imap.fetch("FETCH 1 BODY").lower().startswith(b'body (("text" "plain"')


@pytest.mark.rfc(6855, "8")
@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
@pytest.mark.parametrize("enables", [False, True], ids=["not enabled", "enabled"])
def test_octets_beyond_ascii_stand_in_literals(pochta: Server, charset: str, enables: bool) -> None:
    header = 'From: J\xf6rg <j\xf6rg@example.org>\r\nSubject: "Gr\xfc\xdfe\r\nContent-Type: a/b; name="\xe4"\r\n\r\n'
    message = header.encode(charset) + b"body\r\n"
    with Imap(pochta) as imap:
        if enables:
            imap.ok("ENABLE UTF8=ACCEPT")
        assert imap.append(message)[-1].startswith(b"OK")
        assert imap.literal("FETCH 1 BODY.PEEK[]") == message
        for item in ("ENVELOPE", "BODYSTRUCTURE", "BODY"):
            data = imap.fetch(f"FETCH 1 {item}")
            assert not data.isascii()
            while match := re.search(rb"\{(\d+)\}\r\n", data):
                data = data[: match.start()] + data[match.end() + int(match[1]) :]
            assert data.isascii(), data


def test_usual_fields_of_a_huge_header_come_from_the_message(pochta: Server) -> None:
    huge = b"To: " + b",\r\n ".join(b"someone%d@example.net" % n for n in range(2000)) + b"\r\n"
    with Imap(pochta) as imap:
        imap.append(message(1))
        imap.append(huge + message(2))
        imap.append(message(3))
        answers = imap.ok("FETCH 1:3 (UID BODY.PEEK[HEADER.FIELDS (SUBJECT TO)])")
        assert len(answers) == 3
        assert huge in answers[1]
        assert b"Subject: test 2\r\n\r\n" in answers[1]
        assert b"UID 2" in answers[1]
        assert imap.literal("FETCH 3 BODY.PEEK[HEADER.FIELDS (SUBJECT)]") == b"Subject: test 3\r\n\r\n"


def test_parts_of_a_message_in_a_file(pochta: Server) -> None:
    attachment = (b"QUJD" * 18 + b"\r\n") * 3000
    large = MIXED.replace(b"AAEC\r\n", attachment)
    with Imap(pochta) as imap:
        imap.append(large)
        assert imap.literal("FETCH 1 BODY.PEEK[3]") == attachment.removesuffix(b"\r\n")
        assert imap.literal("FETCH 1 BODY.PEEK[3]<100000.20>") == attachment[100_000:100_020]
        assert imap.literal("FETCH 1 BODY.PEEK[2.1]") == b"inner text"
        assert imap.literal("FETCH 1 BODY.PEEK[HEADER]") == HEADER
        assert imap.literal("FETCH 1 BODY.PEEK[HEADER.FIELDS (X-Own)]") == b"X-Own: 1\r\nX-Own: 2\r\n\r\n"


def test_one_damaged_message_does_not_hide_the_others(pochta: Server) -> None:
    with Imap(pochta) as imap:
        imap.append(message(1))
        imap.append(message(2, b"z" * 100_000))
        imap.append(message(3))
        [file] = [path for path in (pochta.data_dir / "blobs").glob("*/*") if path.is_file()]
        content = file.read_bytes()
        file.unlink()
        *answers, last = imap.do("FETCH 1:3 BODY.PEEK[]")
        assert last.startswith(b"NO [CORRUPTION]")
        assert [message(1) in answers[0], message(3) in answers[-1], len(answers)] == [True, True, 2]
        assert imap.ok("NOOP") == []
        file.write_bytes(content)  # else the store would be found damaged at the end
        assert imap.literal("FETCH 2 BODY.PEEK[]") == content
    assert any("imap.fetch.damaged" in line for line in pochta.events)


@pytest.mark.rfc(3501, "4.3.1")
def test_nul_is_refused_by_append(pochta: Server) -> None:
    with Imap(pochta) as imap:
        assert imap.append(b"Subject: x\r\n\r\na\0b\r\n")[-1].startswith(b"NO")
        assert imap.append(message(1))[-1].startswith(b"OK")


@pytest.mark.rfc(3502, "6.3.11")
def test_multiappend_is_all_or_nothing(pochta: Server) -> None:
    pochta.add_account("small@example.org", "secret", quota_bytes=5000)
    with Imap(pochta, user="small@example.org") as imap:
        parts = [message(1), message(2, b"x" * 6000)]
        heads = [b"{%d+}\r\n" % len(part) + part for part in parts]
        assert imap.do(b"APPEND INBOX " + b" ".join(heads))[-1].startswith(b"NO [OVERQUOTA]")
        assert b"MESSAGES 0 UIDNEXT 1" in imap.ok("STATUS INBOX (MESSAGES UIDNEXT)")[0]
        # what is wrong in a later message takes back the ones before
        assert imap.do(b"APPEND INBOX " + heads[0] + b" {3+}\r\na\0b")[-1].startswith(b"NO")
        assert imap.do(b"APPEND INBOX " + heads[0] + b" (\\Seen {3+}\r\nabc")[-1].startswith(b"BAD")
        assert b"MESSAGES 0" in imap.ok("STATUS INBOX (MESSAGES)")[0]
        assert b"APPENDUID" in imap.do(b"APPEND INBOX " + heads[0] + b" " + heads[0])[-1]


@pytest.mark.rfc(3501, "6.3.11")
def test_a_message_too_large_is_refused_before_it_is_sent(pochta: Server) -> None:
    with Imap(pochta) as imap:
        assert imap.do(b"APPEND INBOX {99999999999}")[-1].startswith(b"NO [TOOBIG]")
        assert imap.do(b"APPEND nowhere {100}")[-1].startswith(b"NO [TRYCREATE]")
        assert imap.do(b"APPEND INBOX {0+}\r\n")[-1].startswith(b"NO")
        imap.ok("NOOP")


_SYNC = "UID FLAGS INTERNALDATE RFC822.SIZE EMAILID SAVEDATE"


def _told(imap: Imap, items: str, numbers: str = "1:*") -> dict[bytes, set[bytes]]:
    """What FETCH tells of each message: its items in any order, without THREADID."""
    found: dict[bytes, set[bytes]] = {}
    for line in imap.do(f"FETCH {numbers} ({items})")[:-1]:
        matched = re.fullmatch(rb"\* (\d+) FETCH \((.*)\)", line.removesuffix(b"\r\n"))
        assert matched is not None, line
        shown = re.findall(rb'[A-Z0-9.]+ (?:"[^"]*"|\([^)]*\)|\d+)', matched[2])
        found[matched[1]] = {one for one in shown if not one.startswith(b"THREADID")}
    return found


def test_what_a_message_keeps_is_told_as_it_is_read(pochta: Server) -> None:
    # THREADID is not among what is kept with the chunk: with it every item is read again
    fill(pochta, 7)
    with Imap(pochta) as imap, Imap(pochta) as other:
        for change, count in (
            ("NOOP", 7),
            ("STORE 2 +FLAGS (\\Deleted $Forwarded)", 7),
            ("NOOP", 7),
            ("EXPUNGE", 6),
            ("UID STORE 5 -FLAGS (\\Seen)", 6),
        ):
            imap.do(change)
            for _ in range(2):
                told = _told(imap, _SYNC)
                assert len(told) == count
                assert told == _told(imap, _SYNC + " THREADID")
            assert _told(imap, _SYNC, "3:4") == {number: told[number] for number in (b"3", b"4")}
            assert _told(imap, "RFC822.SIZE INTERNALDATE", "3") == {
                b"3": {one for one in told[b"3"] if one.startswith((b"RFC822.SIZE", b"INTERNALDATE"))}
            }
        imap.append(message(8))
        imap.do("NOOP")
        assert len(_told(imap, _SYNC)) == 7
        other.do("STORE 1 +FLAGS (\\Deleted)")
        other.do("EXPUNGE")
        # INV-8: the session that was not told still has the message, in a chunk that nobody else has
        assert _told(imap, "UID RFC822.SIZE").keys() == {b"%d" % number for number in range(1, 8)}
        assert _told(imap, "UID RFC822.SIZE INTERNALDATE").keys() == {b"%d" % number for number in range(1, 8)}
        assert _told(imap, "UID").keys() == {b"%d" % number for number in range(1, 8)}


def test_search_again_after_changes_names_the_messages_of_now(pochta: Server) -> None:
    fill(pochta, 6)
    with Imap(pochta) as imap:
        for change, seqs, uids in (
            ("STORE 2,4 +FLAGS.SILENT (\\Seen)", b"1 3 5 6", b"1 3 5 6"),
            ("NOOP", b"1 3 5 6", b"1 3 5 6"),
            ("STORE 1 +FLAGS.SILENT (\\Deleted)", b"1 3 5 6", b"1 3 5 6"),
            ("EXPUNGE", b"2 4 5", b"3 5 6"),
            ("STORE 4 +FLAGS.SILENT (\\Seen)", b"2 5", b"3 6"),
        ):
            imap.do(change)
            for _ in range(2):
                assert imap.do("SEARCH UNSEEN")[0].strip() == b"* SEARCH " + seqs
                assert imap.do("UID SEARCH UNSEEN")[0].strip() == b"* SEARCH " + uids
        assert imap.do("SEARCH UNSEEN SUBJECT nothing-like-it")[0].strip() == b"* SEARCH"
