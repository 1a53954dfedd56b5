"""Tag lists: the `name=value; …` of signatures and of key records, and what is wrong with one.

Source: RFC 6376 §3.2.
"""

import binascii
import re
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.policy.dkim.canon import CRLF, WSP_AND_LINE_ENDS
from pochta.policy.results import Dkim

_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
# RFC 6376 §3.2: printable ASCII and folding; octets over 0x7F are UTF-8 (RFC 8617 §4.1.4).
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLDING: Final = re.compile(rb"[ \t\r\n]+")

Tags = dict[bytes, bytes]


class SignatureFault(RemoteProtocolError):
    """Why a signature does not pass: `result`, and `reason` in few words, none of them the peer's."""

    def __init__(self, result: Dkim, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


def syntax_fault(reason: str) -> SignatureFault:
    """The fault of a field or record that cannot be read."""
    # RFC 6376 §6.1.1: any inconsistency ends in PERMFAIL, nothing is guessed.
    return SignatureFault(Dkim.PERMERROR, reason)


def parse_tags(text: bytes, limit_bytes: int) -> Tags:
    """The tags in their order, without white space around names and values.

    Raises:
        SignatureFault: too long, not a tag list, or a name stands twice.
    """
    if len(text) > limit_bytes:
        raise syntax_fault("tag list too long")
    if _FORBIDDEN.search(text):
        raise syntax_fault("control character in tag list")
    specs = text.split(b";")
    if not specs[-1].strip(WSP_AND_LINE_ENDS):
        specs.pop()
    tags: Tags = {}
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip(WSP_AND_LINE_ENDS)
        if not equals or not _NAME.fullmatch(name):
            raise syntax_fault("malformed tag list")
        # RFC 6376 §3.2: a name that stands twice makes the whole list invalid.
        if name in tags:
            raise syntax_fault("duplicate tag")
        tags[name] = value.strip(WSP_AND_LINE_ENDS)
    return tags


def without_signature(field: bytes) -> bytes:
    """The whole field without the value of b=, the white space around it, and the last CRLF.

    Source: RFC 6376 §3.7.
    """
    head, colon, value = field.partition(b":")
    specs = value.split(b";")
    for number, spec in enumerate(specs):
        name, equals, _ = spec.partition(b"=")
        if equals and name.strip(WSP_AND_LINE_ENDS) == b"b":
            specs[number] = name + equals
            break
    return (head + colon + b";".join(specs)).removesuffix(CRLF)


def unfolded(value: bytes) -> bytes:
    """The value without any white space, where that is not part of it (base64)."""
    return _FOLDING.sub(b"", value)


def decode_base64(value: bytes) -> bytes:
    """The octets; white space is ignored.

    Raises:
        SignatureFault: anything else that is not base64.
    """
    try:
        return binascii.a2b_base64(unfolded(value), strict_mode=True)
    except binascii.Error:
        raise syntax_fault("malformed base64") from None


def split_list(value: bytes) -> list[bytes]:
    """The items of a colon-separated list, in lower case, without white space around them."""
    return [item.strip(WSP_AND_LINE_ENDS) for item in value.lower().split(b":")]
