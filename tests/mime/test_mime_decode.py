"""Text out of octets: charsets, transfer encodings, encoded words, extended parameters."""

import base64
import binascii
import codecs
import email.header
import quopri
from email.message import EmailMessage
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mime_messages import encoded_words, extended_param

from pochta.mime import decode
from pochta.mime.decode import (
    decode_base64,
    decode_charset,
    decode_quoted_printable,
    decode_transfer,
    decode_words,
    param_text,
    transfer_pieces,
)
from pochta.mime.header import parse_params

CHARSETS = [
    pytest.param("Привет", "koi8-r", "koi8_r", id="koi8-r"),
    pytest.param("Привет", "KOI8-R", "koi8_r", id="upper-case"),
    pytest.param("Привіт, ґанку", "koi8-u", "koi8_u", id="koi8-u"),
    pytest.param("Привет", "windows-1251", "cp1251", id="windows-1251"),
    pytest.param("Привет", "cp-1251", "cp1251", id="cp-1251"),
    pytest.param("Привет", "win1251", "cp1251", id="win1251"),
    pytest.param("Привет", "x-cp1251", "cp1251", id="x-cp1251"),
    pytest.param("Привет", "cp866", "cp866", id="cp866"),
    pytest.param("Привет", "iso8859-5", "iso8859_5", id="iso8859-5"),
    pytest.param("Příliš", "windows-1250", "cp1250", id="windows-1250"),
    pytest.param("“quotes” – €", "iso-8859-1", "cp1252", id="latin-1-means-windows-1252"),
    pytest.param("naïve", "us-ascii", "cp1252", id="ascii-with-8-bit"),
    pytest.param("naïve", "us-ascii", "utf_8", id="ascii-with-utf-8"),
    pytest.param("naïve", "unknown-8bit", "cp1252", id="unknown-8bit"),
    pytest.param("naïve", "x-unknown", "utf_8", id="x-unknown"),
    pytest.param("naïve", "8bit", "cp1252", id="8bit"),
    pytest.param("naïve", "no-such-charset", "utf_8", id="no-such-charset"),
    pytest.param("ışık", "iso-8859-9", "cp1254", id="iso-8859-9-means-windows-1254"),
    pytest.param("你好龢㐀", "gb2312", "gb18030", id="gb2312-means-gb18030"),
    pytest.param("你好", "x-gbk", "gb18030", id="x-gbk"),
    pytest.param("你好", "hz-gb-2312", "hz", id="hz"),
    pytest.param("您好，世界", "big5", "big5", id="big5"),
    pytest.param("안녕 똠", "ks_c_5601-1987", "cp949", id="ks_c_5601-1987-means-cp949"),
    pytest.param("안녕", "iso-2022-kr", "iso2022_kr", id="iso-2022-kr"),
    pytest.param("こんにちは", "iso-2022-jp", "iso2022_jp", id="iso-2022-jp"),
    pytest.param("ｶﾀｶﾅ", "iso-2022-jp", "iso2022_jp_ext", id="iso-2022-jp-half-width"),
    pytest.param("こんにちは", "cp50220", "iso2022_jp", id="cp50220"),
    pytest.param("①㈱", "shift_jis", "cp932", id="shift_jis-means-cp932"),
    pytest.param("こんにちは", "euc-jp", "euc_jp", id="euc-jp"),
    pytest.param("สวัสดี", "tis-620", "cp874", id="tis-620"),
    pytest.param("שלום", "iso-8859-8-i", "iso8859_8", id="iso-8859-8-i"),
    pytest.param("Grüße", '"utf-8"', "utf_8", id="quotes-round-the-label"),
    pytest.param("Grüße", "utf-16", "utf_16", id="utf-16"),
    pytest.param("Grüße +", "utf-7", "utf_7", id="utf-7"),
]


@pytest.mark.rfc(2045, "5.1")
@pytest.mark.parametrize(("text", "label", "codec"), CHARSETS)
def test_charsets(text: str, label: str, codec: str) -> None:
    assert decode_charset(text.encode(codec), label) == text


def test_every_charset_of_the_table_is_text_and_decodes() -> None:
    for label, codec in decode._CHARSETS.items():
        assert codecs.lookup(codec)._is_text_encoding, label
        text = decode_charset(b"abc\xff\xe9+2AA-\x1b$B\x00", label)
        assert text.encode("utf-8")  # no lone surrogate


@pytest.mark.parametrize("label", ["zlib_codec", "rot13", "base64", "idna", "unicode-escape", "undefined", "x" * 5000])
def test_codecs_that_are_no_charsets_are_not_used(label: str) -> None:
    assert decode_charset(b"caf\xc3\xa9", label) == "café"


def test_codec_that_this_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decode._CHARSETS, "x_missing", "no_such_codec")
    assert decode_charset(b"caf\xc3\xa9", "x-missing") == "café"


@pytest.mark.parametrize("data", [b"+2AA-", b"\x00", b"\xff\xfe", b"\xff"])
@pytest.mark.parametrize("label", ["utf-7", "utf-16", "utf-32", "utf-8", ""])
def test_what_does_not_decode_is_replaced(data: bytes, label: str) -> None:
    assert isinstance(decode_charset(data, label).encode("utf-8"), bytes)


@given(st.binary(max_size=80), st.sampled_from(sorted(decode._CHARSETS)) | st.text(max_size=12))
@settings(max_examples=300, deadline=None)
def test_decoding_never_raises(data: bytes, charset: str) -> None:
    assert decode_charset(data, charset).encode("utf-8") is not None
    decode_words(data)


WORDS = [
    pytest.param(b"plain text", "plain text", id="plain"),
    pytest.param(b"=?utf-8?b?0J/RgNC40LLQtdGC?=", "Привет", id="utf-8-b"),
    pytest.param(b"=?UTF-8?Q?caf=C3=A9_au_lait?=", "café au lait", id="utf-8-q"),
    pytest.param(b"=?koi8-r?B?8NLJ18XU?=", "Привет", id="koi8-r"),
    pytest.param(b"=?windows-1251?Q?=CF=F0=E8=E2=E5=F2?=", "Привет", id="windows-1251"),
    pytest.param(b"=?gb18030?B?xOO6ww==?=", "你好", id="gb18030"),
    pytest.param(b"=?iso-2022-jp?B?GyRCJDMkcyRLJEEkTxsoQg==?=", "こんにちは", id="iso-2022-jp"),
    pytest.param(b"=?no-such?Q?a=C3=A9?=", "aé", id="unknown-charset-is-utf-8"),
    pytest.param(b"=?no-such?Q?a=E9?=", "a\ufffd", id="unknown-charset-replacement"),
    pytest.param(b"=?utf-8?q?a?=\r\n =?utf-8?q?b?= c", "ab c", id="space-between-words-is-dropped"),
    pytest.param(b"=?utf-8?q?a?=\t \r\n =?koi8-r?q?=C1?=", "aа", id="space-between-charsets-is-dropped"),
    pytest.param(b"=?utf-8?q?a?==?utf-8?q?b?=", "ab", id="no-space-between-words"),
    pytest.param(b"=?utf-8?q?=C3?= =?utf-8?q?=A9?=", "é", id="character-cut-in-two"),
    pytest.param(b"=?utf-8?b?4oI=?= =?UTF-8?Q?=AC?=", "€", id="character-cut-over-two-encodings"),
    pytest.param(b"=?utf-8?q?=C3?= x =?utf-8?q?=A9?=", "\ufffd x \ufffd", id="text-between-cuts"),
    pytest.param(b"x =?utf-8?q?a?= y", "x a y", id="space-to-text-stays"),
    pytest.param(b"=?utf-8*en?q?a?=", "a", id="rfc-2231-language"),
    pytest.param(b"=?utf-8?b?0J8?=", "П", id="missing-padding"),
    pytest.param(b"=?utf-8?x?a?=", "=?utf-8?x?a?=", id="unknown-encoding-stays"),
    pytest.param(b"=?utf-8?b?!!!?= a", "=?utf-8?b?!!!?= a", id="no-base64-stays"),
    pytest.param(b"=?utf-8?q??=", "", id="empty-word"),
    pytest.param(b"=?utf-8?q?a", "=?utf-8?q?a", id="unclosed-stays"),
    pytest.param(b"=?utf-8?q?a =?utf-8?q?b?=", "=?utf-8?q?a b", id="unclosed-then-whole"),
    pytest.param(b"=?utf-8?q?What??=", "What?", id="question-mark-inside"),
    pytest.param(b"=?utf-8?q?=ZZ=4?=", "=ZZ=4", id="broken-q-stays"),
    pytest.param(b"=??q?a?=", "=??q?a?=", id="no-charset-stays"),
    pytest.param("grün".encode(), "grün", id="raw-utf-8"),
    pytest.param(b"gr\xfcn", "grün", id="raw-latin"),
    pytest.param(b"=?idna?q?a?= =?zlib_codec?q?a?=", "aa", id="codecs-that-are-no-charsets"),
]


@pytest.mark.rfc(2047, "6.2")
@pytest.mark.parametrize(("raw", "text"), WORDS)
def test_decode_words(raw: bytes, text: str) -> None:
    assert decode_words(raw) == text


@pytest.mark.rfc(2047, "6.2")
@given(
    st.text("Привет, мир", min_size=1, max_size=20),
    st.sampled_from(["utf-8", "koi8-r", "windows-1251", "gb18030", "iso-2022-jp"]),
    st.sampled_from("bq"),
    st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_words_of_any_width(text: str, charset: str, kind: str, width: int) -> None:
    assert decode_words(encoded_words(text, charset, kind, width)) == text


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_decode_words_reads_what_the_standard_library_writes(text: str) -> None:
    assert decode_words(email.header.Header(text, "utf-8").encode().encode()) == text


def uuencoded(data: bytes) -> bytes:
    lines = [binascii.b2a_uu(data[at : at + 45]) for at in range(0, len(data), 45)]
    return b"begin 644 a.txt\n" + b"".join(lines) + b"`\nend\n"


TRANSFERS = [
    pytest.param(b"base64", b"SGVsbG8=", b"Hello", id="base64"),
    pytest.param(b"base64", b"SGVs\r\nbG8", b"Hello", id="base64-no-padding"),
    pytest.param(b"base64", b"S*G V-s\x00bG8=\r\n\r\nfooter", b"Hello", id="base64-footer-of-a-list"),
    pytest.param(b"base64", b"SGVsb", b"Hel", id="base64-one-character-too-many"),
    pytest.param(b"quoted-printable", b"caf=C3=A9 =\r\nau=3d", "café au=".encode(), id="qp"),
    pytest.param(b"quoted-printable", b"a=ZZ b=", b"a=ZZ b", id="qp-broken"),
    pytest.param(b"quoted-printable", b"a= \t\r\nb=\t\nc= ", b"abc", id="qp-white-space-behind-soft-break"),
    pytest.param(b"quoted-printable", b"a=\rb=\rc\nd", b"a=\rb=\rc\nd", id="qp-bare-cr"),
    pytest.param(b"x-uuencode", uuencoded(b"Hello" * 20), b"Hello" * 20, id="uuencode"),
    pytest.param(b"uuencode", b"text\n" + uuencoded(b"Hi"), b"Hi", id="uuencode-behind-text"),
    pytest.param(b"uue", uuencoded(b"abc").replace(b"\n", b"\r\n"), b"abc", id="uuencode-crlf"),
    pytest.param(b"x-uue", b"#86)C\n\n\xff\xff\n#86)C", b"abcabc", id="uuencode-no-begin-and-a-broken-line"),
    pytest.param(b"x-uue", b"#86)C\xffX", b"abc", id="uuencode-checksum-behind"),
    pytest.param(b"7bit", b"a=41", b"a=41", id="7bit"),
    pytest.param(b"x-unknown", b"a=41", b"a=41", id="unknown"),
]


@pytest.mark.rfc(2045, "6")
@pytest.mark.parametrize(("encoding", "raw", "data"), TRANSFERS)
def test_transfer_encodings(encoding: bytes, raw: bytes, data: bytes) -> None:
    assert decode_transfer(raw, encoding) == data
    assert b"".join(transfer_pieces([raw[at : at + 1] for at in range(len(raw))], encoding)) == data


_RAW = st.lists(
    st.sampled_from([b"=", b"= ", b"=\t", b"\r", b"\n", b"\r\n", b"=4", b"=41", b"a", b"SGVs", b"bG", b" ", b"\xff"])
).map(b"".join)


@given(
    _RAW, st.lists(st.integers(0, 60), max_size=5), st.sampled_from([b"base64", b"quoted-printable", b"uue", b"8bit"])
)
@settings(max_examples=400, deadline=None)
def test_pieces_do_not_matter(raw: bytes, places: list[int], encoding: bytes) -> None:
    cuts = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    pieces = [raw[start:stop] for start, stop in pairwise(cuts)]
    assert b"".join(transfer_pieces(pieces, encoding)) == decode_transfer(raw, encoding)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_reads_what_encoders_write(data: bytes) -> None:
    assert decode_base64(base64.encodebytes(data)) == data
    assert decode_quoted_printable(quopri.encodestring(data)) == data
    assert decode_transfer(uuencoded(data), b"x-uuencode") == data


@pytest.mark.rfc(2231, "4")
@pytest.mark.parametrize(
    ("raw", "text"),
    [
        pytest.param(b"a; filename*=utf-8''%D0%9F.txt; filename=x", "П.txt", id="extended-wins"),
        pytest.param(b"a; filename=x; filename*=utf-8''%D0%9F.txt", "П.txt", id="extended-wins-behind"),
        pytest.param(b"a; filename*=koi8-r'ru'%F0", "П", id="koi8-r"),
        pytest.param(b"a; filename*=''%D0%9F", "П", id="no-charset"),
        pytest.param(b"a; filename*=%D0%9F.txt", "П.txt", id="quotes-forgotten"),
        pytest.param(b"a; filename*=utf-8''it's%", "it's%", id="quote-and-bare-percent"),
        pytest.param(b"a; filename*0*=utf-8''%D0; filename*1*=%9F", "П", id="cut-character"),
        pytest.param(b'a; filename*1="b c"; filename*0=a', "ab c", id="pieces-in-any-order"),
        pytest.param(b"a; filename*0*=koi8-r''%F0; filename*1=%41", "П%41", id="plain-piece-keeps-its-percent"),
        pytest.param(b'a; filename="=?utf-8?b?0J8=?="', "П", id="encoded-word"),
        pytest.param(b'a; filename="\xd0\x9f"', "П", id="raw-utf-8"),
        pytest.param(b"a; filename*=", "", id="empty"),
        pytest.param(b"a; other=1", None, id="absent"),
    ],
)
def test_param_text(raw: bytes, text: str | None) -> None:
    assert param_text(parse_params(raw)[1], b"filename") == text


@pytest.mark.rfc(2231, "3")
@given(
    st.text("aПé'\"%*; ", min_size=1, max_size=40), st.sampled_from(["utf-8", "utf-16", "gb18030"]), st.integers(0, 9)
)
@settings(max_examples=100, deadline=None)
def test_names_in_pieces_of_any_width(name: str, charset: str, width: int) -> None:
    raw = b"attachment" + extended_param("filename", name[:20], charset, width * 3)
    assert param_text(parse_params(raw)[1], b"filename") == name[:20]


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_file_names_of_the_standard_library(name: str) -> None:
    message = EmailMessage()
    message.add_header("Content-Disposition", "attachment", filename=name)
    raw = message.as_bytes().partition(b":")[2].partition(b"\n\n")[0]
    assert param_text(parse_params(raw)[1], b"filename") == name
