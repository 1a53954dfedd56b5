"""Every command of the grammar: text to value, and what is refused."""

import pytest

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.commands import FetchAttribute as A
from pochta.proto.imap.commands import SectionKind as K
from pochta.proto.imap.commands import StatusItem as S
from pochta.proto.imap.fetch import MAX_FETCH_ITEMS
from pochta.proto.imap.parse import parse_command
from pochta.proto.imap.search import MAX_SEARCH_DEPTH, MAX_SEARCH_KEYS
from pochta.proto.imap.seqset import SeqSet


def parse(text: bytes) -> c.Command:
    tag, command = parse_command(b"a1 " + text + b"\r\n")
    assert tag == b"a1"
    return command


ONE = SeqSet(((1, 1),))
TO_END = SeqSet(((1, 0),))

COMMANDS: list[tuple[bytes, c.Command]] = [
    (b"CAPABILITY", c.Capability()),
    (b"noop", c.Noop()),
    (b"Logout", c.Logout()),
    (b"STARTTLS", c.StartTls()),
    (b"CHECK", c.Check()),
    (b"CLOSE", c.Close()),
    (b"UNSELECT", c.Unselect()),
    (b"EXPUNGE", c.Expunge()),
    (b"IDLE", c.Idle()),
    (b"NAMESPACE", c.Namespace()),
    (b"LOGIN SMITH SESAME", c.Login("SMITH", "SESAME")),
    (b'login "a b" "q\\"\\\\"', c.Login("a b", 'q"\\')),
    (b"LOGIN {11}\r\nFRED FOOBAR {7+}\r\nfat man", c.Login("FRED FOOBAR", "fat man")),
    (b"LOGIN u {2}\r\n{}", c.Login("u", "{}")),
    ('LOGIN "u" "пароль"'.encode(), c.Login("u", "пароль")),
    (b"AUTHENTICATE kerberos_v4", c.Authenticate("KERBEROS_V4")),
    (b"AUTHENTICATE PLAIN dGVzdAB0ZXN0AHRlc3Q=", c.Authenticate("PLAIN", b"test\x00test\x00test")),
    (b"AUTHENTICATE EXTERNAL =", c.Authenticate("EXTERNAL", b"")),
    (b"ENABLE condstore X-GOOD-IDEA", c.Enable(("CONDSTORE", "X-GOOD-IDEA"))),
    (b"ID NIL", c.Id(())),
    (b"ID ()", c.Id(())),
    (b'ID ("name" "sodr" "version" NIL)', c.Id((("name", "sodr"), ("version", None)))),
    (b"SELECT iNbOx", c.Select("INBOX", is_read_only=False, old_name="iNbOx")),
    (b'EXAMINE "inbox"', c.Select("INBOX", is_read_only=True, old_name="inbox")),
    (b"SELECT {5}\r\nInBoX", c.Select("INBOX", is_read_only=False, old_name="InBoX")),
    (b"SELECT inbox/a]b", c.Select("inbox/a]b", is_read_only=False)),
    (b"SELECT x (condstore)", c.Select("x", is_read_only=False, is_condstore=True)),
    (b"EXAMINE x (CONDSTORE)", c.Select("x", is_read_only=True, is_condstore=True)),
    (b"STATUS x (highestmodseq)", c.Status("x", (S.HIGHESTMODSEQ,))),
    (
        b"uid fetch 1:* (flags) (changedsince 12345)",
        c.Fetch(TO_END, (A.UID, A.FLAGS, A.MODSEQ), is_uid=True, changed_since=12345, is_uid_implied=True),
    ),
    (b"FETCH 1 MODSEQ (CHANGEDSINCE 0)", c.Fetch(ONE, (A.MODSEQ,), is_uid=False, changed_since=0)),
    (
        b"store 1 (unchangedsince 9223372036854775807) +flags.silent \\seen",
        c.Store(ONE, c.StoreMode.ADD, True, ("\\Seen",), False, 0x7FFF_FFFF_FFFF_FFFF),
    ),
    (b"CREATE &BB8EPgRHBEIEMA-/a", c.Create("Почта/a")),
    (b"CREATE MyDrafts (USE (\\Drafts \\Sent))", c.Create("MyDrafts", ("\\Drafts", "\\Sent"))),
    (b"DELETE x", c.Delete("x")),
    (b'RENAME x "y z"', c.Rename("x", "y z")),
    (b"SUBSCRIBE x", c.Subscribe("x")),
    (b"UNSUBSCRIBE x", c.Unsubscribe("x")),
    (b'LIST "" ""', c.List("", ("",))),
    (b'LIST "" %', c.List("", ("%",))),
    (b'LIST ~/Mail/ "a*"', c.List("~/Mail/", ("a*",))),
    (b'LIST "" {2}\r\n%*', c.List("", ("%*",))),
    (
        b'LIST (SUBSCRIBED RECURSIVEMATCH) "" (a% "b*") RETURN (CHILDREN STATUS (MESSAGES UNSEEN))',
        c.List(
            "",
            ("a%", "b*"),
            (c.ListSelect.SUBSCRIBED, c.ListSelect.RECURSIVEMATCH),
            (c.ListReturn.CHILDREN,),
            (S.MESSAGES, S.UNSEEN),
            is_extended=True,
        ),
    ),
    (b'LIST () "" * RETURN ()', c.List("", ("*",), is_extended=True)),
    (
        b'LIST (SPECIAL-USE) "" "*" RETURN (SPECIAL-USE)',
        c.List("", ("*",), (c.ListSelect.SPECIAL_USE,), (c.ListReturn.SPECIAL_USE,), is_extended=True),
    ),
    (b'LSUB "#news." "comp.mail.*"', c.Lsub("#news.", "comp.mail.*")),
    (b"status newbox (messages unseen)", c.Status("newbox", (S.MESSAGES, S.UNSEEN))),
    (
        b"STATUS x (MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN SIZE DELETED)",
        c.Status("x", (S.MESSAGES, S.RECENT, S.UIDNEXT, S.UIDVALIDITY, S.UNSEEN, S.SIZE, S.DELETED)),
    ),
    (b"UID EXPUNGE 1:*", c.UidExpunge(TO_END)),
    (b"store 1 +flags \\DELETED", c.Store(ONE, c.StoreMode.ADD, False, ("\\Deleted",), False)),
    (b"STORE 1 FLAGS ()", c.Store(ONE, c.StoreMode.REPLACE, False, (), False)),
    (b"STORE 1 -FLAGS.SILENT (\\seen $Junk)", c.Store(ONE, c.StoreMode.REMOVE, True, ("\\Seen", "$Junk"), False)),
    (b"UID STORE 1 FLAGS \\Seen \\Draft", c.Store(ONE, c.StoreMode.REPLACE, False, ("\\Seen", "\\Draft"), True)),
    (b"STORE 1 FLAGS (\\Recent \\Flagged)", c.Store(ONE, c.StoreMode.REPLACE, False, ("\\Flagged",), False)),
    (b"COPY 1:* Sent", c.Copy(TO_END, "Sent", False)),
    (b"uid copy 1 Sent", c.Copy(ONE, "Sent", True)),
    (b"MOVE 1 Sent", c.Move(ONE, "Sent", False)),
    (b"UID MOVE 1 Sent", c.Move(ONE, "Sent", True)),
]


@pytest.mark.rfc(3501, "9")
@pytest.mark.parametrize(("text", "want"), COMMANDS, ids=[text[:40].decode("latin-1") for text, _ in COMMANDS])
def test_command(text: bytes, want: c.Command) -> None:
    assert parse(text) == want


ALL = (A.FLAGS, A.INTERNALDATE, A.RFC822_SIZE, A.ENVELOPE)
FETCHES: list[tuple[bytes, tuple[c.FetchItem, ...]]] = [
    (b"ALL", ALL),
    (b"FAST", ALL[:3]),
    (b"full", (*ALL, A.BODY)),
    (b"FLAGS", (A.FLAGS,)),
    (b"(UID FLAGS UID)", (A.UID, A.FLAGS)),
    (
        b"(ENVELOPE BODYSTRUCTURE BODY INTERNALDATE RFC822.SIZE)",
        (A.ENVELOPE, A.BODYSTRUCTURE, A.BODY, A.INTERNALDATE, A.RFC822_SIZE),
    ),
    (b"RFC822", (c.BodySection(b"RFC822", K.WHOLE),)),
    (b"RFC822.HEADER", (c.BodySection(b"RFC822.HEADER", K.HEADER, is_peek=True),)),
    (b"RFC822.TEXT", (c.BodySection(b"RFC822.TEXT", K.TEXT),)),
    (b"BODY[]", (c.BodySection(b"BODY[]", K.WHOLE),)),
    (b"body.peek[header]", (c.BodySection(b"BODY[HEADER]", K.HEADER, is_peek=True),)),
    (b"BODY[TEXT]<0.2048>", (c.BodySection(b"BODY[TEXT]<0>", K.TEXT, partial=(0, 2048)),)),
    (b"BODY[1.2.3]", (c.BodySection(b"BODY[1.2.3]", K.WHOLE, (1, 2, 3)),)),
    (b"BODY[4.2.mime]", (c.BodySection(b"BODY[4.2.MIME]", K.MIME, (4, 2)),)),
    (b"BODY[1.HEADER]", (c.BodySection(b"BODY[1.HEADER]", K.HEADER, (1,)),)),
    (
        b"BODY.PEEK[HEADER.FIELDS (Date From)]",
        (c.BodySection(b"BODY[HEADER.FIELDS (Date From)]", K.HEADER_FIELDS, (), (b"Date", b"From"), None, True),),
    ),
    (
        b'BODY[2.HEADER.FIELDS.NOT ("Da(te" {4}\r\nFrom)]<5.6>',
        (
            c.BodySection(
                b'BODY[2.HEADER.FIELDS.NOT ("Da(te" From)]<5>', K.HEADER_FIELDS_NOT, (2,), (b"Da(te", b"From"), (5, 6)
            ),
        ),
    ),
]


@pytest.mark.rfc(3501, "6.4.5")
@pytest.mark.parametrize(("text", "items"), FETCHES, ids=[text[:40].decode("latin-1") for text, _ in FETCHES])
def test_fetch(text: bytes, items: tuple[c.FetchItem, ...]) -> None:
    assert parse(b"FETCH 1 " + text) == c.Fetch(ONE, items, is_uid=False)


@pytest.mark.rfc(3501, "6.4.8")
def test_uid_fetch_implies_uid() -> None:
    assert parse(b"UID FETCH 1 FLAGS") == c.Fetch(ONE, (A.UID, A.FLAGS), is_uid=True, is_uid_implied=True)
    assert parse(b"UID FETCH 1 (FLAGS UID)") == c.Fetch(ONE, (A.UID, A.FLAGS), is_uid=True)


def flag(name: str, *, is_set: bool = True) -> c.SearchKey:
    return c.SearchFlag(name, is_set)


SEARCHES: list[tuple[bytes, c.SearchKey]] = [
    (b"ALL", c.SearchAll()),
    (b"ANSWERED", flag("\\Answered")),
    (b"DELETED", flag("\\Deleted")),
    (b"DRAFT", flag("\\Draft")),
    (b"FLAGGED", flag("\\Flagged")),
    (b"seen", flag("\\Seen")),
    (b"UNANSWERED", flag("\\Answered", is_set=False)),
    (b"UNDELETED", flag("\\Deleted", is_set=False)),
    (b"UNDRAFT", flag("\\Draft", is_set=False)),
    (b"UNFLAGGED", flag("\\Flagged", is_set=False)),
    (b"UNSEEN", flag("\\Seen", is_set=False)),
    (b"KEYWORD $Junk", flag("$Junk")),
    (b"UNKEYWORD $Junk", flag("$Junk", is_set=False)),
    (b"RECENT", c.SearchRecent()),
    (b"OLD", c.SearchNot(c.SearchRecent())),
    (b"NEW", c.SearchAnd((c.SearchRecent(), flag("\\Seen", is_set=False)))),
    (b"BCC x", c.SearchHeader("bcc", "x")),
    (b"CC x", c.SearchHeader("cc", "x")),
    (b"FROM x", c.SearchHeader("from", "x")),
    (b"TO x", c.SearchHeader("to", "x")),
    (b'SUBJECT "a b"', c.SearchHeader("subject", "a b")),
    (b"header subject test", c.SearchHeader("subject", "test")),
    (b'HEADER X-Spam ""', c.SearchHeader("x-spam", "")),
    (b"BODY x", c.SearchText(c.TextScope.BODY, "x")),
    (b"TEXT x", c.SearchText(c.TextScope.TEXT, "x")),
    (b"LARGER 1000", c.SearchSize(c.SizeTest.LARGER, 1000)),
    (b"SMALLER 0", c.SearchSize(c.SizeTest.SMALLER, 0)),
    (b"BEFORE 2-Jan-1970", c.SearchDate(c.DateTest.BEFORE, 1, False)),
    (b'ON "2-Jan-1970"', c.SearchDate(c.DateTest.ON, 1, False)),
    (b"SINCE 2-Jan-1970", c.SearchDate(c.DateTest.SINCE, 1, False)),
    (b"SENTBEFORE 2-Jan-1970", c.SearchDate(c.DateTest.BEFORE, 1, True)),
    (b"SENTON 2-Jan-1970", c.SearchDate(c.DateTest.ON, 1, True)),
    (b"SENTSINCE 2-Jan-1970", c.SearchDate(c.DateTest.SINCE, 1, True)),
    (b"1:*", c.SearchSet(TO_END, is_uid=False)),
    (b"UID 1", c.SearchSet(ONE, is_uid=True)),
    (b"MODSEQ 620162338", c.SearchModSeq(620162338)),
    (b"modseq 0", c.SearchModSeq(0)),
    (b'MODSEQ "/flags/\\\\draft" all 620162338', c.SearchModSeq(620162338)),
    (b'NOT MODSEQ "/FLAGS/$Work" priv 7', c.SearchNot(c.SearchModSeq(7))),
    (b"NOT SEEN", c.SearchNot(flag("\\Seen"))),
    (b"OR SEEN DRAFT", c.SearchOr((flag("\\Seen"), flag("\\Draft")))),
    (b"OR SEEN OR DRAFT ALL", c.SearchOr((flag("\\Seen"), flag("\\Draft"), c.SearchAll()))),
    (
        b"OR (SEEN DRAFT) NOT (ALL)",
        c.SearchOr((c.SearchAnd((flag("\\Seen"), flag("\\Draft"))), c.SearchNot(c.SearchAll()))),
    ),
    (b"SEEN (DRAFT (ALL)) 1", c.SearchAnd((flag("\\Seen"), flag("\\Draft"), c.SearchAll(), c.SearchSet(ONE, False)))),
    (b"((((SEEN))))", flag("\\Seen")),
    ("CHARSET utf-8 SUBJECT {12}\r\nпривет".encode(), c.SearchHeader("subject", "привет")),
    (b"charset KOI8-R TEXT {6}\r\n" + "привет".encode("koi8-r"), c.SearchText(c.TextScope.TEXT, "привет")),
    (b"CHARSET GB2312 TEXT {4}\r\n" + "中文".encode("gbk"), c.SearchText(c.TextScope.TEXT, "中文")),
    (
        b"CHARSET ISO-2022-JP BODY {10}\r\n" + "日本".encode("iso2022-jp"),
        c.SearchText(c.TextScope.BODY, "日本"),
    ),
    (b"CHARSET iso-8859-7 TO {1}\r\n\xe1", c.SearchHeader("to", "α")),
    ('SUBJECT "привет"'.encode(), c.SearchHeader("subject", "привет")),
]


@pytest.mark.rfc(3501, "6.4.4")
@pytest.mark.parametrize(("text", "key"), SEARCHES, ids=[text[:40].decode("latin-1") for text, _ in SEARCHES])
def test_search(text: bytes, key: c.SearchKey) -> None:
    has_charset = text[:7].upper() == b"CHARSET"
    assert parse(b"SEARCH " + text) == c.Search(key, is_uid=False, has_charset=has_charset)
    assert parse(b"UID SEARCH " + text) == c.Search(key, is_uid=True, has_charset=has_charset)


@pytest.mark.rfc(3501, "6.4.4")
def test_unknown_charset_is_no_syntax_error() -> None:
    assert parse(b"SEARCH CHARSET x-klingon TEXT {3}\r\n\xf8\xf9\xfa") == c.UnknownCharset("x-klingon")


def test_hostile_search_is_bounded() -> None:
    deepest = b"(" * MAX_SEARCH_DEPTH
    for text in (deepest + b"ALL" + b")" * MAX_SEARCH_DEPTH, b"NOT " * MAX_SEARCH_DEPTH + b"ALL"):
        with pytest.raises(RemoteProtocolError, match="complex"):
            parse(b"SEARCH " + text)
    with pytest.raises(RemoteProtocolError, match="complex"):
        parse(b"SEARCH " + b"OR ALL " * 20_000 + b"ALL")
    with pytest.raises(RemoteProtocolError, match="complex"):
        parse(b"SEARCH" + b" ALL" * (MAX_SEARCH_KEYS + 1))
    nested = parse(b"SEARCH " + b"NOT " * (MAX_SEARCH_DEPTH - 1) + b"ALL")
    assert repr(nested).count("SearchNot") == MAX_SEARCH_DEPTH - 1


def test_hostile_fetch_is_bounded() -> None:
    items = b" ".join(b"BODY[%d]" % number for number in range(1, MAX_FETCH_ITEMS + 2))
    with pytest.raises(RemoteProtocolError, match="too many"):
        parse(b"FETCH 1 (" + items + b")")
    assert parse(b"FETCH 1 (" + b" ".join([b"BODY[]"] * 5000) + b")") == parse(b"FETCH 1 BODY[]")


MALFORMED = [
    b"",
    b"FOO",
    b"UID",
    b"UID NOOP",
    b"NOOP ",
    b"NOOP x",
    b" NOOP",
    b"LOGIN",
    b"LOGIN a",
    b"LOGIN  a b",
    b"LOGIN a b c",
    b'LOGIN a "b',
    b'LOGIN a "b\\c"',
    b'LOGIN a "b"c',
    b"LOGIN a {3}\r\nab",
    b"LOGIN a {2}\r\na\x00",
    b"LOGIN a b\x00",
    b"LOGIN a \xe9",
    b'LOGIN a "\xe9"',
    b"AUTHENTICATE",
    b"AUTHENTICATE PLAIN ",
    b"AUTHENTICATE PLAIN =AAA",
    b"AUTHENTICATE PLAIN AAAA AAAA",
    b"ENABLE",
    b"ID",
    b"ID x",
    b'ID ("a")',
    b"ID (" + b" ".join([b'"a" "b"'] * 31) + b")",
    b"ID (" + b'"' + b"a" * 31 + b'" NIL)',
    b"SELECT",
    b"SELECT a b",
    b"SELECT R&D",
    b'SELECT "\xc3\xa9"',
    b"SELECT (a)",
    b"CREATE a (USE \\Drafts)",
    b"CREATE a (FOO (\\Drafts))",
    b"RENAME a",
    b'LIST ""',
    b'LIST (RECURSIVEMATCH) "" *',
    b'LIST (FOO) "" *',
    b'LIST "" * RETURN (FOO)',
    b'LIST "" * FOO (CHILDREN)',
    b'LIST "" ()',
    b"STATUS a",
    b"STATUS a ()",
    b"STATUS a (FOO)",
    b"STATUS a (MESSAGES",
    b"STATUS a MESSAGES",
    b"FETCH 1",
    b"FETCH 0 FLAGS",
    b"FETCH 1 ()",
    b"FETCH 1 (ALL)",
    b"FETCH 1 FLAGS UID",
    b"FETCH 1 (FLAGS  UID)",
    b"FETCH 1 BODY[MIME]",
    b"FETCH 1 BODY[0]",
    b"FETCH 1 BODY[1.]",
    b"FETCH 1 BODY[.1]",
    b"FETCH 1 BODY[1..2]",
    b"FETCH 1 BODY[1HEADER]",
    b"FETCH 1 BODY[FOO]",
    b"FETCH 1 BODY[",
    b"FETCH 1 BODY[]<0>",
    b"FETCH 1 BODY[]<0.0>",
    b"FETCH 1 BODY[]<9223372036854775808.1>",
    b"FETCH 1 BODY[4294967296]",
    b"FETCH 1 BODY[" + b"1." * 200 + b"1]",
    b"FETCH 1 BODY[HEADER.FIELDS]",
    b"FETCH 1 BODY[HEADER.FIELDS ()]",
    b'FETCH 1 BODY[HEADER.FIELDS ("a b")]',
    b'FETCH 1 BODY[HEADER.FIELDS ("")]',
    b"FETCH 1 BODY.PEEK",
    b"FETCH 1 ENVELOPE[]",
    b"STORE 1 FLAGS",
    b"STORE 1 FOO (\\Seen)",
    b"STORE 1 +FLAGS.LOUD (\\Seen)",
    b"STORE 1 FLAGS (\\Seen",
    b"STORE 1 FLAGS (a]b)",
    b"STORE 1 FLAGS (\\)",
    b"STORE 1 FLAGS " + b"k" * 256,
    b"STORE 1 FLAGS (" + b" ".join(b"k%d" % number for number in range(257)) + b")",
    b"COPY 1",
    b"SEARCH",
    b"SEARCH ",
    b"SEARCH FOO",
    b"SEARCH ()",
    b"SEARCH (ALL",
    b"SEARCH ALL)",
    b"SEARCH OR ALL",
    b"SEARCH NOT",
    b"SEARCH FROM",
    b"SEARCH LARGER x",
    b"SEARCH LARGER 9223372036854775808",
    b"SEARCH SINCE 31-Feb-2020",
    b"SEARCH SINCE yesterday",
    b"SEARCH CHARSET UTF-8",
    b"SEARCH CHARSET US-ASCII TEXT {1}\r\n\xe9",
    b"SEARCH TEXT {1}\r\n\xe9",
    b"APPEND INBOX",
]


@pytest.mark.parametrize("text", MALFORMED, ids=[text[:40].decode("latin-1") for text in MALFORMED])
def test_malformed(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse(text)
    assert str(caught.value).isascii()
    assert "\n" not in str(caught.value)


@pytest.mark.rfc(6855, "3")
def test_utf8_names_once_enabled() -> None:
    data = 'a1 SELECT "Почта"\r\n'.encode()
    assert parse_command(data, utf8_accept=True) == (b"a1", c.Select("Почта", is_read_only=False))
    assert parse_command(b"a1 SELECT R&D\r\n", utf8_accept=True) == (b"a1", c.Select("R&D", is_read_only=False))
    with pytest.raises(RemoteProtocolError):
        parse_command(data)


@pytest.mark.parametrize("tag", [b"a+1", b"", b"a(", b"\xe9", b"a" * 129, b'"a"'])
def test_malformed_tag(tag: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_command(tag + b" NOOP\r\n")


def test_secrets_are_not_printed() -> None:
    assert "sesame" not in repr(parse(b"LOGIN smith sesame"))
    assert "test" not in repr(parse(b"AUTHENTICATE PLAIN dGVzdAB0ZXN0AHRlc3Q="))
