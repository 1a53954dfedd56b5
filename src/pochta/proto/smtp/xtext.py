"""xtext and unitext: how a parameter of MAIL or RCPT carries what a parameter cannot, there and back.

Decides what is well-formed; refuses to know what the text means. Sources: RFC 3461 §4, RFC 6533 §3.
"""

import re
from typing import Final

from pochta.errors import RemoteProtocolError

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")
_NOT_XCHAR = re.compile(rb"[^!-*,-<>-~]")

# RFC 6533 §3: CTLs, SP, `\`, `+` and `=` never stand for themselves in a `utf-8` address.
_UNITEXT = re.compile(r"(?:[!-*,-<>-\[\]-~\u0080-\ud7ff\ue000-\U0010ffff]|\\x\{[0-9A-Fa-f]{2,6}\})+")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]+)\}")
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_NOT_QUCHAR = re.compile(r"[^!-*,-<>-\[\]-~\u0080-\U0010ffff]")
_ASCII_EMBEDDED: Final = frozenset({*range(0x01, 0x21), 0x2B, 0x3D, 0x5C, 0x7F})


def encode_xtext(text: str) -> str:
    """`text` as xtext; what is not ASCII goes as its UTF-8 octets. Source: RFC 3461 §4."""
    return _NOT_XCHAR.sub(lambda match: b"+%02X" % match[0][0], text.encode("utf-8")).decode("ascii")


def decode_xtext(text: str) -> bytes:
    """The octets that `text` stands for.

    Raises:
        RemoteProtocolError: it is no xtext.
    """
    if not _XTEXT.fullmatch(text):
        raise RemoteProtocolError("not xtext")
    if "+" not in text:
        return text.encode("ascii")
    return _HEXCHAR.sub(lambda match: bytes.fromhex(match[1].decode("ascii")), text.encode("ascii"))


def encode_unitext(address: str, *, keeps_utf8: bool) -> str:
    """`address` for `ORCPT=utf-8;`: as utf-8-addr-unitext where the server takes SMTPUTF8, else as utf-8-addr-xtext."""
    # RFC 6533 §3: without SMTPUTF8 at the other side every non-ASCII character is written in ASCII.
    unsafe = _NOT_QUCHAR if keeps_utf8 else _NOT_QCHAR
    return unsafe.sub(lambda match: f"\\x{{{ord(match[0]):02X}}}", address)


def decode_unitext(text: str) -> str:
    """The address that a utf-8-addr-xtext, utf-8-addr-unitext or utf-8-address stands for.

    Raises:
        RemoteProtocolError: it is none of them.
    """
    if not _UNITEXT.fullmatch(text):
        raise RemoteProtocolError("not a utf-8 address")
    return text if "\\" not in text else _EMBEDDED.sub(_embedded_char, text)


def _embedded_char(match: re.Match[str]) -> str:
    digits = match[1]
    point = int(digits, 16)
    # RFC 6533 §3: HEXPOINT has no superfluous zero, no surrogate, and of ASCII only what could not stand for itself.
    is_shortest = len(digits) == 2 or digits[0] != "0"
    is_legal = point in _ASCII_EMBEDDED or 0x80 <= point < 0xD800 or 0xE000 <= point <= 0x10FFFF
    if not (is_shortest and is_legal):
        raise RemoteProtocolError("not a utf-8 address")
    return chr(point)
