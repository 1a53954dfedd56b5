"""Octets of mail as text for people and for SEARCH: transfer encodings, charsets, encoded words, parameters.

The one place where octets become `str`. Takes whatever mail contains: an encoding that is broken is undone as far as it
goes, what cannot be decoded becomes U+FFFD, nothing here raises, and time is linear in the input. No result holds a
lone surrogate. Which octets belong to which part or field is decided elsewhere (`parse`, `header`).
"""

import binascii
import codecs
import re
from collections.abc import Iterable, Iterator
from encodings.aliases import aliases

from pochta.mime.header import Params, unfold

# Labels of charsets are below 45 octets (IANA); what is longer is none, and need not be copied about.
MAX_LABEL = 64

# Names that the codecs module knows but that are no charsets of text, or whose decoders are not linear.
_NOT_CHARSETS = {
    "base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec",
    "idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "mbcs", "oem",
}  # fmt: skip
# A closed table: an unknown name given to codecs.lookup would be remembered there for ever.
_CHARSETS = {name: name for name in {*aliases.values(), "koi8_u", "koi8_t", "cp874", "utf_8_sig", "cp737", "cp875"}}
_CHARSETS |= {f"mac_{name}": f"mac_{name}" for name in ("arabic", "croatian", "farsi", "romanian")}
_CHARSETS |= aliases
# Labels that mean their supersets in practice, as browsers read them (WHATWG Encoding §4.2), and labels that the codecs
# module does not know but mail has.
_CHARSETS |= {
    "gb2312": "gb18030", "gb_2312": "gb18030", "gb_2312_80": "gb18030", "gb2312_80": "gb18030", "chinese": "gb18030",
    "gbk": "gb18030", "x_gbk": "gb18030", "cp936": "gb18030", "euc_cn": "gb18030", "x_euc_cn": "gb18030",
    "big5": "big5hkscs", "big5_tw": "big5hkscs", "cn_big5": "big5hkscs", "x_x_big5": "big5hkscs",
    "ks_c_5601_1987": "cp949", "ks_c_5601_1989": "cp949", "ks_c_5601": "cp949", "ksc5601": "cp949", "euc_kr": "cp949",
    "x_sjis": "cp932", "shift_jis": "cp932", "sjis": "cp932", "x_ms_cp932": "cp932", "x_euc_jp": "euc_jp",
    "iso_2022_jp": "iso2022_jp_ext", "iso_2022_jp_ms": "iso2022_jp_ext", "csiso2022jp": "iso2022_jp_ext",
    "iso2022_jp": "iso2022_jp_ext", "cp50220": "iso2022_jp_ext", "cp50221": "iso2022_jp_ext",
    "iso_8859_8_i": "iso8859_8", "iso_8859_8_e": "iso8859_8", "iso_8859_6_i": "iso8859_6", "iso_8859_6_e": "iso8859_6",
    "iso_8859_9": "cp1254", "iso_8859_11": "cp874", "tis_620": "cp874", "dos_874": "cp874",
    "koi8r": "koi8_r", "koi8": "koi8_r", "koi": "koi8_r", "koi8u": "koi8_u", "koi8_ru": "koi8_u", "ibm866": "cp866",
    "utf8mb4": "utf_8", "unicode_1_1_utf_8": "utf_8", "unicode_1_1_utf_7": "utf_7",
    "ucs_2": "utf_16", "iso_10646_ucs_2": "utf_16", "ucs_4": "utf_32", "iso_10646_ucs_4": "utf_32",
    "x_mac_cyrillic": "mac_cyrillic", "x_mac_roman": "mac_roman",
    "ascii": "cp1252", "us_ascii": "cp1252", "iso_8859_1": "cp1252", "latin_1": "cp1252", "latin1": "cp1252",
    "iso8859_1": "cp1252", "ansi": "cp1252",
}  # fmt: skip
# Labels by which a sender says that he does not know: unknown-8bit, and what mailers write.
_CHARSETS |= dict.fromkeys(
    ("", "unknown", "unknown_8bit", "x_unknown", "x_user_defined", "8bit", "7bit", "binary", "default", "none",
     "default_charset", "_autodetect", "_autodetect_all"),
    "cp1252",
)  # fmt: skip
_CHARSETS = {name: codec for name, codec in _CHARSETS.items() if codec not in _NOT_CHARSETS}
_SEPARATORS = re.compile(r"[-. :]")
_NUMBERED = re.compile(r"(?:x_)?(?:cp_?|win_?|windows_?|ms_?|ibm_?|dos_?|(iso_?8859_?))([0-9]{1,5})")


def _codec(label: str) -> str:
    """The codec of a charset label, UTF-8 for one that nobody knows."""
    name = _SEPARATORS.sub("_", label[:MAX_LABEL].strip(" \t\r\n\"'").lower())
    found = _CHARSETS.get(name)
    if found is None:
        # windows-1251 is also written win-1251, cp-1251, x-cp1251, windows1251 …
        match = _NUMBERED.fullmatch(name)
        found = match and _CHARSETS.get(f"iso_8859_{match[2]}" if match[1] else f"cp{match[2]}")
    return found or "utf_8"


def decode_charset(data: bytes, charset: str) -> str:
    """Text of `data`; an unknown charset is read as UTF-8, what does not decode becomes U+FFFD.

    ASCII and Latin-1 labels, none at all and those that say "unknown" are read as windows-1252 once UTF-8 does not fit:
    that is what senders of 8-bit text under such a label mean.
    """
    if charset in ("", "us-ascii", "utf-8") and data.isascii():
        return data.decode("ascii")
    name = _codec(charset) if charset else "cp1252"
    if name == "cp1252":
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            pass
    try:
        text = codecs.decode(data, name, "replace")
    except (LookupError, UnicodeError):  # UTF-16 without data, a codec this build lacks
        return data.decode("utf-8", "replace")
    if name == "utf_7":  # the one decoder that lets lone surrogates through: no database and no UTF-8 takes them
        return text.encode("utf-8", "replace").decode("utf-8")
    return text


def decode_text(value: bytes) -> str:
    """Text of raw header octets: UTF-8 (RFC 6532), else windows-1252. Encoded words are not looked at."""
    return decode_charset(value, "")


# Transfer encodings

_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
# RFC 2045 §6.7 (3): white space at the end of a line was added on the way; behind `=` it hides a soft line break. A
# line has at most 998 octets (RFC 5322 §2.1.1).
_LATE_SPACE = re.compile(rb"=[ \t]{1,998}(?=\r?(?:\n|\Z))")
_SPACE_AT_END = re.compile(rb"=(?=[ \t]{1,998}\r?\Z)")
# `=` that stands for itself. The C decoder would skip all between `=` CR and the next line feed, and take `==` for one.
_BARE_EQUALS = re.compile(rb"=(?==|\r(?!\n|\Z))")
_UUENCODE = frozenset((b"uuencode", b"x-uuencode", b"uue", b"x-uue"))
_UU_BEGIN = re.compile(rb"(?:\A|\n)begin [0-7]{3,4} [^\n]*\n")


def decode_base64(data: bytes) -> bytes:
    """Octets up to the first padding; characters outside the alphabet are skipped. Source: RFC 2045 §6.8."""
    data = data.translate(None, _NOT_BASE64)
    data = data.partition(b"=")[0]
    rest = len(data) & 3
    if rest == 1:  # six bits make no octet
        data = data[:-1]
    elif rest:
        data += b"=="[: 4 - rest]
    return binascii.a2b_base64(data)


def decode_quoted_printable(data: bytes) -> bytes:
    """Octets; `=` with no two hexadecimal digits behind it stays. Source: RFC 2045 §6.7."""
    if b"= " in data or b"=\t" in data:
        data = _LATE_SPACE.sub(b"=", data)
    return binascii.a2b_qp(_escape_equals(data))


def _escape_equals(data: bytes) -> bytes:
    if b"==" in data or data.count(b"=\r") != data.count(b"=\r\n"):
        return _BARE_EQUALS.sub(b"=3D", data)
    return data


def decode_uuencode(data: bytes) -> bytes:
    """Octets of the first file in uuencoded text; lines that are none are left out. Source: POSIX uuencode."""
    begin = _UU_BEGIN.search(data)
    if begin:
        data = data[begin.end() :]
    out: list[bytes] = []
    for line in data.split(b"\n"):
        line = line.rstrip(b"\r")
        if line in (b"end", b"`", b" "):
            break
        out.append(_uu_line(line))
    return b"".join(out)


def _uu_line(line: bytes) -> bytes:
    if not line:
        return b""
    # the first character is the number of octets; encoders pad, cut and add a checksum in many ways
    size = (line[0] - 32) & 63
    try:
        return binascii.a2b_uu(line[: 1 + (size * 4 + 2) // 3])
    except binascii.Error:
        return b""


def decode_transfer(data: bytes, encoding: bytes) -> bytes:
    """A body without its transfer encoding (`Part.encoding`); 7bit, 8bit, binary and unknown ones are left as they are.

    Source: RFC 2045 §6.
    """
    if encoding == b"base64":
        return decode_base64(data)
    if encoding == b"quoted-printable":
        return decode_quoted_printable(data)
    if encoding in _UUENCODE:
        return decode_uuencode(data)
    return data


def transfer_pieces(pieces: Iterable[bytes], encoding: bytes) -> Iterator[bytes]:
    """As `decode_transfer`, for a body that comes in pieces; their results joined are the same.

    Holds back up to a line, of base64 three characters; uuencoded text is held whole.
    """
    if encoding == b"base64":
        return _base64_pieces(pieces)
    if encoding == b"quoted-printable":
        return _quoted_printable_pieces(pieces)
    if encoding in _UUENCODE:
        return iter((decode_uuencode(b"".join(pieces)),))
    return iter(pieces)


def _base64_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        data = held + piece.translate(None, _NOT_BASE64)
        if b"=" in data:
            yield decode_base64(data)
            return
        cut = len(data) & ~3
        held = data[cut:]
        yield binascii.a2b_base64(data[:cut])
    yield decode_base64(held)


def _quoted_printable_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        data = _escape_equals(held + piece)
        cut = data.rfind(b"\n") + 1
        if not cut:
            # one long line: only `=XY`, or `=` and white space, must not be cut
            cut = len(data)
            place = data.rfind(b"=", max(0, cut - 1000))
            if place >= 0 and (place >= cut - 2 or not data[place + 1 :].strip(b" \t\r")):
                cut = place
        held = data[cut:]
        data = data[:cut]
        if held and data.endswith((b" ", b"\t", b"\r")):  # in front of the `=` that is held: not the end of a line
            data = _SPACE_AT_END.sub(b"=3D", data)
        yield decode_quoted_printable(data)
    yield decode_quoted_printable(held)


# Header fields

# RFC 2047 §2: `?` may not stand in the text of a word, but senders leave some there; `=?` begins the next word. Each
# try looks at a stretch without `?` at most six times.
_ENCODED_WORD = re.compile(
    rb"=\?([^?\s*]++)(?:\*[^?\s]*+)?\?([bBqQ])\?([^?]*+(?:(?<!=)\?(?!=)[^?\s]*+){0,5})\?=",
)


def decode_words(value: bytes) -> str:
    """Unicode text of an unstructured field body: unfolded, encoded words decoded. Source: RFC 2047 §6.2.

    Neighbouring words of one charset are joined before decoding: many senders cut words inside a character. A word that
    cannot be decoded at all stays as it is.
    """
    value = unfold(value)
    if b"=?" not in value:
        return decode_text(value)
    out: list[str] = []
    held: list[bytes] = []
    held_charset = b""
    end = 0
    for match in _ENCODED_WORD.finditer(value):
        charset, encoding, text = match.groups()
        word = decode_base64(text) if encoding in b"bB" else binascii.a2b_qp(text, header=True)
        if text and not word:
            continue
        between = value[end : match.start()]
        charset = charset.lower()
        # RFC 2047 §6.2: white space between two encoded words is not shown
        joined = end > 0 and not between.strip()
        if held and not (joined and charset == held_charset):
            out.append(decode_charset(b"".join(held), held_charset.decode("latin-1")))
            held = []
        if not joined:
            out.append(decode_text(between))
        held.append(word)
        held_charset = charset
        end = match.end()
    if held:
        out.append(decode_charset(b"".join(held), held_charset.decode("latin-1")))
    out.append(decode_text(value[end:]))
    return "".join(out)


_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")


def param_text(params: Params, name: bytes) -> str | None:
    """Decoded value of the parameter `name` (lower case), from `name*` or `name`; None when there is neither.

    Encoded words, which RFC 2047 forbids here but Outlook writes, are decoded. Source: RFC 2231 §4.
    """
    extended = name + b"*"
    found = None
    for key, value in params:
        if key == extended:
            pieces = value.split(b"'", 2)
            charset = pieces[0].decode("latin-1") if len(pieces) == 3 else ""
            return decode_charset(_PERCENT.sub(_unpercent, pieces[-1]), charset)
        if key == name and found is None:
            found = value
    return None if found is None else decode_words(found)


def _unpercent(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))
