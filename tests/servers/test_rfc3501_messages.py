"""What RFC 3501 requires of commands about messages. The list: tests/requirements/rfc3501.toml."""

import base64
import re
import smtplib

import pytest
from imap_raw import USER, Imap, fill, message

from pochta.store.messages import UID_LIMIT
from pochta.store.store import Store
from pochta.store.tx import Tx
from pochta.testing import Server

rfc = pytest.mark.rfc

STATIC = "(UID INTERNALDATE RFC822.SIZE ENVELOPE BODY BODYSTRUCTURE BODY.PEEK[] BODY.PEEK[HEADER] BODY.PEEK[1])"


def deliver(server: Server, data: bytes) -> None:
    with smtplib.SMTP(server.host, server.smtp_port) as smtp:
        smtp.sendmail("b@example.net", [USER], data)


@rfc(3501, "6.4.5")
@rfc(3501, "2.3.1.1")
@rfc(3501, "9")
def test_what_is_static_never_changes(pochta: Server) -> None:
    with Imap(pochta, mailbox=None) as imap:
        imap.ok("CREATE box")
        fill(pochta, 2, mailbox="box")
        imap.ok("SELECT box")
        before = imap.fetch(f"FETCH 2 {STATIC}")
        imap.ok("STORE 1:2 FLAGS (\\Deleted \\Answered Own)")
        imap.ok("UID EXPUNGE 1")
        assert imap.fetch(f"FETCH 1 {STATIC}") == before
        imap.ok("RENAME box other")
        assert imap.fetch(f"FETCH 1 {STATIC}") == before
    with Imap(pochta, mailbox="other") as again:
        assert again.fetch(f"FETCH 1 {STATIC}") == before


@rfc(3501, "5.2")
@rfc(3501, "7.3.1")
@pytest.mark.parametrize(
    "command",
    [
        "NOOP",
        "CHECK",
        "CREATE new",
        "STATUS Archive (MESSAGES)",
        "FETCH 1 UID",
        "STORE 1 +FLAGS (\\Flagged)",
        "SEARCH ALL",
        "UID FETCH 1 FLAGS",
        "COPY 1 Archive",
        "EXPUNGE",
    ],
)
def test_any_command_tells_a_new_size(pochta: Server, command: str) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        deliver(pochta, message(2))
        assert b"* 2 EXISTS" in imap.ok(command)


@rfc(3501, "5.5")
def test_commands_sent_at_once_are_carried_out_in_order(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as imap:
        commands = [
            "STORE 1 +FLAGS (\\Flagged)",
            "FETCH 1 FLAGS",
            "STORE 1 FLAGS (\\Deleted)",
            "FETCH 1 FLAGS",
            "UID SEARCH DELETED",
            "EXPUNGE",
            "FETCH 1 UID",
            "COPY 1 Archive",
            "STATUS Archive (MESSAGES)",
            "CREATE box",
            "SELECT box",
            "FETCH 1 UID",
        ]
        imap.send("".join(f"n{number} {command}\r\n" for number, command in enumerate(commands)).encode())
        answers = [imap.end(b"n%d" % number) for number in range(len(commands))]
        assert [answer[-1][:3] for answer in answers] == [b"OK "] * 11 + [b"BAD"]
        assert answers[1][0] == b"* 1 FETCH (FLAGS (\\Flagged \\Recent))"
        assert answers[3][0] == b"* 1 FETCH (FLAGS (\\Deleted \\Recent))"
        assert answers[4][0] == b"* SEARCH 1"
        assert answers[6][0] == b"* 1 FETCH (UID 2)"
        assert answers[8][0] == b"* STATUS Archive (MESSAGES 1)"


@rfc(3501, "4.3")
@rfc(3501, "5.5")
def test_a_literal_is_no_command(pochta: Server) -> None:
    data = b"a LOGOUT\r\n"
    with Imap(pochta) as imap:
        tag = imap.begin(b"APPEND INBOX {%d}" % len(data))
        assert imap.line().startswith(b"+ ")
        imap.send(data + b"\r\n")
        assert b"* 1 EXISTS" in imap.end(tag)
        assert imap.literal("FETCH 1 BODY.PEEK[]") == data


def _end_uids(tx: Tx, uid_next: int) -> None:
    tx.run("UPDATE mailbox SET uid_next = ? WHERE role = 'archive'", (uid_next,))


@rfc(3501, "6.4.7")
def test_a_copy_that_fails_copies_nothing(pochta: Server) -> None:
    fill(pochta, 3)

    async def end_uids(store: Store) -> None:
        await store.write(1, _end_uids, UID_LIMIT - 2)

    pochta.run(end_uids)
    with Imap(pochta) as imap:
        for command in ("COPY 1:3 Archive", "UID COPY 1:* Archive", "MOVE 1:3 Archive"):
            assert imap.do(command)[-1].startswith(b"NO ")
            assert imap.ok("STATUS Archive (MESSAGES UIDNEXT)") == [
                b"* STATUS Archive (MESSAGES 0 UIDNEXT %d)" % (UID_LIMIT - 2)
            ]
        assert len(imap.ok("FETCH 1:* UID")) == 3
        assert b"COPYUID" in imap.do("COPY 1:2 Archive")[-1]


@rfc(3501, "6.3.11")
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"{9000+}\r\n" + b"x" * 9000, id="over quota"),
        pytest.param(b"{5+}\r\na\0b\r\n", id="NUL"),
        pytest.param(b"{0+}\r\n", id="empty"),
        pytest.param(b'"not a literal"', id="no literal"),
        pytest.param(b"(\\Seen {5+}\r\nabc\r\n", id="malformed flags"),
        pytest.param(b'" 1-Feb-2020 99:00:00 +0000" {5+}\r\nabc\r\n', id="malformed date"),
    ],
)
def test_an_append_that_fails_leaves_no_trace(pochta: Server, data: bytes) -> None:
    pochta.add_account("small@example.org", "secret", quota_bytes=5000)
    with Imap(pochta, user="small@example.org") as imap:
        assert imap.append(message(1))[-1].startswith(b"OK")
        before = imap.ok("STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)")[-1]
        assert imap.do(b"APPEND INBOX " + data)[-1].startswith((b"NO", b"BAD"))
        assert imap.ok("STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)")[-1] == before


@rfc(3501, "6.4.4")
def test_search_compares_what_is_decoded(pochta: Server) -> None:
    body = base64.encodebytes("отчёт за ноябрь".encode("koi8-r")).replace(b"\n", b"\r\n")
    deliver(
        pochta,
        b"Subject: =?koi8-r?B?%b?=\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=koi8-r\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n%b" % (base64.b64encode("привет".encode("koi8-r")), body),
    )
    deliver(pochta, b"Subject: plain\r\n\r\nreport\r\n")
    with Imap(pochta) as imap:
        for charset, key, text, found in (
            ("UTF-8", "SUBJECT", "привет".encode(), b"* SEARCH 1"),
            ("UTF-8", "BODY", "НОЯБРЬ".encode(), b"* SEARCH 1"),
            ("UTF-8", "TEXT", "отчёт".encode(), b"* SEARCH 1"),
            ("US-ASCII", "BODY", b"report", b"* SEARCH 2"),
            ("us-ascii", "SUBJECT", b"nothing", b"* SEARCH"),
        ):
            assert imap.ok(b"SEARCH CHARSET %b %b {%d+}\r\n" % (charset.encode(), key.encode(), len(text)) + text) == [
                found
            ]
        for command in ("SEARCH", "UID SEARCH"):
            assert imap.do(f"{command} CHARSET X-NONE ALL")[-1].startswith(b"NO [BADCHARSET ")


@rfc(3501, "7.4.2")
def test_an_origin_is_told_only_where_it_was_asked_for(pochta: Server) -> None:
    large = message(1, b"x" * 70 + b"\r\n") + (b"y" * 76 + b"\r\n") * 20_000
    with Imap(pochta) as imap:
        imap.append(large)
        for item, said in (
            ("BODY.PEEK[]", b"BODY[] {%d}\r\n" % len(large)),
            ("RFC822.TEXT", b"RFC822.TEXT {"),
            ("BODY.PEEK[]<0.2000000>", b"BODY[]<0> {%d}\r\n" % len(large)),
            ("BODY.PEEK[TEXT]<3.4>", b"BODY[TEXT]<3> "),
        ):
            assert said in imap.fetch(f"FETCH 1 ({item})")


@rfc(3501, "7.4.2")
@rfc(3501, "4.3.1")
def test_what_was_stored_is_sent_as_it_is(pochta: Server) -> None:
    header = "Subject: привет\r\nFrom: é <e@example.net>\r\n".encode()
    typed = b"MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    body = bytes(range(1, 256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"
    with Imap(pochta) as imap:
        imap.append(header + typed + body)
        assert imap.literal("FETCH 1 BODY.PEEK[HEADER]") == header + typed
        assert imap.literal("FETCH 1 BODY.PEEK[1]") == body
        assert imap.literal("FETCH 1 BODY.PEEK[]") == header + typed + body


@rfc(3501, "9")
def test_no_system_flag_is_made_up(pochta: Server) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        for command in ("STORE 1 +FLAGS (\\Own \\Seen)", "STORE 1 FLAGS (\\Own \\Seen)", "UID STORE 1 +FLAGS (\\Own)"):
            assert b"\\Own" not in b"".join(imap.ok(command))
        imap.append(message(2), "INBOX (\\Own)")
        for line in (*imap.ok("FETCH 1:* FLAGS"), *imap.ok("SELECT INBOX")):
            names = set(re.findall(rb"\\\w+", line.partition(b"FLAGS ")[2]))
            assert names <= {b"\\Answered", b"\\Flagged", b"\\Deleted", b"\\Seen", b"\\Draft", b"\\Recent"}


@rfc(3501, "9")
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("fEtCh 1 (uId fLaGs rfc822.sIZe)", rb"\* 1 FETCH \(UID 1 FLAGS \(\\Recent\) RFC822.SIZE \d+\)"),
        ("fetch 1 bOdY.pEEk[hEADer.fieLds (sUBject)]", rb"\* 1 FETCH \(BODY\[HEADER\.FIELDS \(.*"),
        ("uid fetch 1 fAst", rb"\* 1 FETCH \(UID 1 FLAGS .*"),
        ("sTORE 1 +fLaGs.sIlEnT (\\sEEN)", rb""),
        ("search uNSeeN not lArGer 100000 keYword x", rb"\* SEARCH"),
        ("search sEntSince 1-fEB-1994", rb"\* SEARCH"),
        ("sTatus iNbOx (mEssages uiDNext)", rb"\* STATUS (?i:inbox) \(MESSAGES 1 UIDNEXT 2\)"),
        ('append Archive (\\sEEn) "01-jAN-2020 00:00:00 +0000" {3+}\r\nabc', rb""),
        ("eNaBle cOndStore", rb"\* ENABLED CONDSTORE\n.*"),
        ('lIst "" iNBOX reTurn (sTATUS (mEssages))', rb"\* LIST \(.*"),
    ],
)
def test_words_in_any_case(pochta: Server, command: str, answer: bytes) -> None:
    fill(pochta, 1)
    with Imap(pochta) as imap:
        assert re.fullmatch(answer, b"\n".join(imap.ok(command)), re.DOTALL)
