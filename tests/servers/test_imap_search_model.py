"""Any SEARCH, judged by a plain model on top of the standard library's email package; any message."""

import email
import email.header
import email.policy
import email.utils
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date
from email.message import Message
from typing import cast

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_rig import DAY, EPOCH, ITEMS, NOW, Bench, Item

from pochta.mime.parse import parse
from pochta.proto.imap import commands as c
from pochta.proto.imap.seqset import parse_seq_set
from pochta.servers.imap.search import text as search_text

WORDS = ("fox", "Отчёт", "münchen", "example", "привет", "photos", "inner", "nothere", "a", "О", "", "status report")
FIELDS = ("from", "to", "cc", "bcc", "subject", "x-tag", "message-id", "date", "content-type", "x-nothing")


def leaves() -> st.SearchStrategy[c.SearchKey]:
    words = st.sampled_from(WORDS)
    days = st.sampled_from([NOW // DAY + n for n in (-41, -40, -1, 0, 1, 3)])
    sent = st.sampled_from([date(2026, 11, n).toordinal() - EPOCH for n in (22, 23, 24, 25, 26)])
    tests = st.sampled_from(list(c.DateTest))
    names = st.sampled_from(["\\Seen", "\\Deleted", "\\Flagged", "\\Draft", "\\Answered", "work", "$label1", "nobody"])
    sets = st.sampled_from(["1", "2:4", "*", "3:*", "9", "1,5,90:80", "4:2"]).map(lambda s: parse_seq_set(s.encode()))
    sizes = st.sampled_from([0, 10**6, *(len(item.raw) for item in ITEMS)])
    return st.one_of(
        st.just(c.SearchAll()),
        st.just(c.SearchRecent()),
        st.builds(c.SearchFlag, names, st.booleans()),
        st.builds(c.SearchHeader, st.sampled_from(FIELDS), words),
        st.builds(c.SearchText, st.sampled_from(list(c.TextScope)), words),
        st.builds(c.SearchSize, st.sampled_from(list(c.SizeTest)), sizes),
        st.builds(c.SearchDate, tests, days, st.just(False)),
        st.builds(c.SearchDate, tests, sent, st.just(True)),
        st.builds(c.SearchSet, sets, st.booleans()),
    )


def trees(inner: st.SearchStrategy[c.SearchKey]) -> st.SearchStrategy[c.SearchKey]:
    several = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.one_of(st.builds(c.SearchNot, inner), st.builds(c.SearchAnd, several), st.builds(c.SearchOr, several))


def folded(text: str) -> str:
    return unicodedata.normalize("NFKD", text).casefold()


def header_text(value: str) -> str:
    return " ".join(str(email.header.make_header(email.header.decode_header(value))).split())


def headers_text(message: "Message[str, str]") -> str:
    lines = [f"{name}: {header_text(value)}" for name, value in message.items()]
    return "\n".join([*lines, message.get_filename() or ""])


def model_text(message: "Message[str, str]", *, is_text: bool, is_outer: bool = True) -> str:
    texts = []
    if is_text or not is_outer:
        texts.append(headers_text(message))
    for part in message.walk() if is_outer else [message]:
        if part is not message and is_text:
            texts.append(headers_text(part))
        if part.get_content_type() == "message/rfc822":
            texts.append(headers_text(cast("list[Message[str, str]]", part.get_payload())[0]))
        elif part.get_content_maintype() == "text":
            data = cast(bytes, part.get_payload(decode=True))
            texts.append(data.decode(part.get_content_charset("ascii")))
    return "\n\n".join(texts)


class Model:
    """What a key means, message by message."""

    def __init__(self, items: Sequence[Item], recent: Sequence[tuple[int, int]]) -> None:
        self.items = items
        self.recent = recent
        self.parsed = [email.message_from_bytes(item.raw, policy=email.policy.compat32) for item in items]

    def find(self, key: c.SearchKey) -> list[int]:
        return [number for number in range(1, len(self.items) + 1) if self.matches(number, key)]

    def matches(self, number: int, key: c.SearchKey) -> bool:
        item, message = self.items[number - 1], self.parsed[number - 1]
        match key:
            case c.SearchAll():
                return True
            case c.SearchNot():
                return not self.matches(number, key.key)
            case c.SearchAnd():
                return all(self.matches(number, one) for one in key.keys)
            case c.SearchOr():
                return any(self.matches(number, one) for one in key.keys)
            case c.SearchRecent():
                return any(first <= number <= last for first, last in self.recent)
            case c.SearchFlag():
                return self.has_flag(item, key.flag) is key.is_set
            case c.SearchHeader():
                values = [header_text(value) for name, value in message.items() if name.lower() == key.field]
                return any(folded(key.text) in folded(value) for value in values)
            case c.SearchText():
                text = model_text(message, is_text=key.scope is c.TextScope.TEXT)
                return folded(key.text) in folded(text)
            case c.SearchSize():
                size = len(item.raw)
                return size > key.size_bytes if key.test is c.SizeTest.LARGER else size < key.size_bytes
            case c.SearchDate():
                return self.has_day(item, message, key)
            case c.SearchSet():
                count = len(self.items)
                return any(
                    min(a or count, b or count) <= number <= max(a or count, b or count) for a, b in key.seq_set.ranges
                )

    def has_flag(self, item: Item, name: str) -> bool:
        system = {"\\Seen": 1, "\\Answered": 2, "\\Flagged": 4, "\\Deleted": 8, "\\Draft": 16}
        if name in system:
            return bool(item.system_flags & system[name])
        return name.lower() in [one.lower() for one in item.keywords]

    def has_day(self, item: Item, message: "Message[str, str]", key: c.SearchDate) -> bool:
        if key.is_sent:
            parsed = email.utils.parsedate_tz(message.get("Date", ""))
            if parsed is None:
                return False
            day = date(*parsed[:3]).toordinal() - EPOCH
        else:
            day = (item.internal_date + item.zone_minutes * 60) // DAY
        tests: dict[c.DateTest, Callable[[int, int], bool]] = {
            c.DateTest.BEFORE: lambda a, b: a < b,
            c.DateTest.ON: lambda a, b: a == b,
            c.DateTest.SINCE: lambda a, b: a >= b,
        }
        return tests[key.test](day, key.epoch_day)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.recursive(leaves(), trees, max_leaves=12))
def test_any_key_finds_what_the_model_finds(filled: Bench, key: c.SearchKey) -> None:
    assert filled.find(key) == Model(ITEMS, filled.recent).find(key)


_SCRAPS = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b",
        b"Content-Type: message/rfc822",
        b"Content-Type: text/html; charset=x",
        b"Content-Type: text/plain; charset=utf-16",
        b"Content-Transfer-Encoding: base64",
        b"Content-Transfer-Encoding: quoted-printable",
        b"Content-Disposition: attachment; filename*0*=a'b'%ff",
        b"Subject: =?koi8-r?q?=ff=fe?= fox",
        *(b"--b", b"--b--", b"", b"=?utf-8?b?0J/", b"\xff=E\x00&#x;", b"fox", b" folded\xd0", b":"),
    ]
)
_SCRAMBLED = st.lists(_SCRAPS, max_size=30).map(b"\r\n".join) | st.binary(max_size=200)


@settings(max_examples=200, deadline=None)
@given(raw=_SCRAMBLED, word=st.sampled_from(["fox", "п", "folded", "\ufffd", "=?"]))
def test_any_message_can_be_searched(raw: bytes, word: str) -> None:
    needles = [search_text.needle(word, in_header=False), search_text.needle(word, in_header=True)]
    *_, found = search_text.find_in_message(lambda start, stop: raw[start:stop], parse(raw), needles)
    assert found in (0, 0b10, 0b11)  # what BODY finds, TEXT finds
