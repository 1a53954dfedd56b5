"""The grammar of ACL, QUOTA and METADATA; responses as octets."""

import pytest

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import acl, metadata
from pochta.proto.imap.acl import DeleteAcl, GetAcl, ListRights, MyRights, SetAcl
from pochta.proto.imap.commands import Command
from pochta.proto.imap.events import BadCommand, CommandEvent
from pochta.proto.imap.metadata import GetMetadata, SetMetadata
from pochta.proto.imap.parse import parse_command
from pochta.proto.imap.quota import GetQuota, GetQuotaRoot, SetQuota
from pochta.proto.imap.server import ImapServer

GOOD: list[tuple[bytes, Command]] = [
    (b"SETACL INBOX anna lrs", SetAcl("INBOX", "anna", "", "lrs")),
    (b'setacl inbox "-anna" "+w"', SetAcl("INBOX", "-anna", "+", "w")),
    (b'SETACL &- {5+}\r\ngr\xc3\xbcn ""', SetAcl("&", "grün", "", "")),
    (b"DELETEACL a anyone", DeleteAcl("a", "anyone")),
    (b"GETACL a", GetAcl("a")),
    (b"LISTRIGHTS a b", ListRights("a", "b")),
    (b"MYRIGHTS {1+}\r\na", MyRights("a")),
    (b'GETQUOTA ""', GetQuota("")),
    (b"GETQUOTAROOT inbox", GetQuotaRoot("INBOX")),
    (b"SETQUOTA a ()", SetQuota("a", ())),
    (b"SETQUOTA a (storage 5 MESSAGE 9)", SetQuota("a", (("STORAGE", 5), ("MESSAGE", 9)))),
    (b'GETMETADATA "" /shared/Comment', GetMetadata("", ("/shared/comment",))),
    (b"GETMETADATA a (/private/x /private/X)", GetMetadata("a", ("/private/x",))),
    (b"GETMETADATA (DEPTH infinity) a /private", GetMetadata("a", ("/private",), None)),
    (b"GETMETADATA a (maxsize 9 depth 1) (/private)", GetMetadata("a", ("/private",), 1, 9)),
    (b'SETMETADATA a (/private/x NIL /shared/y "v")', SetMetadata("a", (("/private/x", None), ("/shared/y", b"v")))),
    (b"SETMETADATA a (/private/x ~{2+}\r\n\0\r)", SetMetadata("a", (("/private/x", b"\0\r"),))),
]
BAD = [
    *(b'SETACL a "" lr', b'SETACL a "-" lr', b"SETACL a b", b"SETACL a b c d", b"GETACL", b"GETACL a b", b"MYRIGHTS"),
    b"SETACL a b " + b"l" * 65,
    b"LISTRIGHTS a " + b"x" * 1025,
    b'DELETEACL a "\xff"',
    *(
        b"SETQUOTA a",
        b"SETQUOTA a STORAGE 5",
        b"SETQUOTA a (STORAGE)",
        b"SETQUOTA a (STORAGE -1)",
        b"SETQUOTA a (X 1 )",
    ),
    b"SETQUOTA a (STORAGE 9223372036854775808)",
    b"SETQUOTA a (%b)" % b" ".join(b"R%d 1" % n for n in range(17)),
    *(b"GETMETADATA a", b"GETMETADATA a ()", b"GETMETADATA a /other/x", b"GETMETADATA a private/x"),
    *(b"GETMETADATA a (DEPTH 2) /private", b"GETMETADATA a (SIZE 2) /private", b"GETMETADATA a (DEPTH 1)"),
    *(
        b'SETMETADATA a (/private "x")',
        b"SETMETADATA a (/private/x)",
        b"SETMETADATA a ()",
        b"SETMETADATA a /private/x NIL",
    ),
    *(b'SETMETADATA a ("/private/x*" NIL)', b'SETMETADATA a ("/private/x/" NIL)', b'SETMETADATA a ("/private//x" NIL)'),
    *(
        b'SETMETADATA a ("/private/\x01" NIL)',
        b'SETMETADATA a ("/private/\xc3\xbc" NIL)',
        b"SETMETADATA a (/shared/vendor/x NIL)",
    ),
    b"SETMETADATA a (/private/%b NIL)" % (b"x" * 255),
    b"SETMETADATA a (/private/x ~{9+}\r\nabc)",
    b"SETMETADATA a (%b)" % b" ".join(b"/private/%d NIL" % n for n in range(65)),
]


@pytest.mark.parametrize(("line", "command"), GOOD, ids=[str(line[:30]) for line, _ in GOOD])
def test_commands(line: bytes, command: Command) -> None:
    assert parse_command(b"a " + line + b"\r\n") == (b"a", command)


@pytest.mark.parametrize("line", BAD, ids=[str(line[:40]) for line in BAD])
def test_what_is_not_grammar_is_bad(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_command(b"a " + line + b"\r\n")


@pytest.mark.rfc(5464, "5")
@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_literal8_comes_in_pieces(cut: int) -> None:
    data = b"a SETMETADATA b (/private/x ~{3+}\r\n\0\r\n)\r\nb LOGIN c ~{2+}\r\nde\r\n"
    engine = ImapServer()
    engine.is_authenticated = True
    found: list[object] = []
    for start in range(0, len(data), cut):
        engine.receive_data(data[start : start + cut])
        while (event := engine.next_event()) is not None:
            found.append(event)
    assert found == [
        CommandEvent(b"a", SetMetadata("b", (("/private/x", b"\0\r\n"),))),
        BadCommand(b"b", "literal8 is not supported"),
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, b"NIL"), (b"", b'""'), (b'a"b', b'"a\\"b"'), (b"a\r\nb", b"{4}\r\na\r\nb"), (b"\0", b"~{1}\r\n\0")],
)
def test_values(value: bytes | None, shown: bytes) -> None:
    assert metadata.metadata_response("a b", [("/private/x", value)]) == b'* METADATA "a b" (/private/x %b)\r\n' % shown


def test_identifiers() -> None:
    assert [acl.identifier(one) for one in ("a@b", "a b", "ü")] == [b"a@b", b'"a b"', b"{2}\r\n\xc3\xbc"]
