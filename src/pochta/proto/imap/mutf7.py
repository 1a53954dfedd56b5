"""Modified UTF-7, the spelling of mailbox names on the wire: bytes <-> str, strict in both directions.

Every str without lone surrogates has exactly one spelling, and only that one is accepted. Thus two different names on
the wire are never one mailbox, and a name is told to the client exactly as the client wrote it.

What a name may contain (length, delimiter, controls, NFC) is the store's business, not decided here.

Source: RFC 3501 §5.1.3.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Final

from pochta.errors import RemoteProtocolError

_SHIFT: Final = re.compile(rb"&([A-Za-z0-9+,]*)-")
_PRINTABLE: Final = re.compile(rb"[\x20-\x7e]*")
_DIRECT: Final = re.compile(rb"[\x20-\x25\x27-\x7e]*")
_UNDIRECT: Final = re.compile(r"&|[^\x20-\x7e]+")
_MALFORMED: Final = "mailbox name is not valid modified UTF-7"


def decode_mutf7(name: bytes) -> str:
    """The text that `name` spells.

    Raises: RemoteProtocolError when `name` is not the one correct spelling of any text.
    """
    if _DIRECT.fullmatch(name) is not None:
        return name.decode("ascii")
    if _PRINTABLE.fullmatch(name) is None:
        raise RemoteProtocolError(_MALFORMED)
    try:
        text = _SHIFT.sub(_decode_shift, name).decode("utf-8")
    except (UnicodeError, Base64Error) as error:
        raise RemoteProtocolError(_MALFORMED) from error
    # RFC 3501 §5.1.3: no superfluous shifts, no base64 for what represents itself. Spelling the text again and
    # comparing also catches stray bits, a "&" without "-" and runs that were split in two.
    if encode_mutf7(text) != name:
        raise RemoteProtocolError(_MALFORMED)
    return text


def encode_mutf7(text: str) -> bytes:
    """The spelling of `text`; printable ASCII without quoting.

    Raises: UnicodeEncodeError for lone surrogates, which no stored name has.
    """
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.encode("ascii")
    return _UNDIRECT.sub(_encode_run, text).encode("ascii")


def _decode_shift(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if not digits:
        return b"&"
    padded = digits.replace(b",", b"/") + b"=" * (-len(digits) % 4)
    return a2b_base64(padded).decode("utf-16-be").encode("utf-8")


def _encode_run(match: re.Match[str]) -> str:
    run = match[0]
    if run == "&":
        return "&-"
    digits = b2a_base64(run.encode("utf-16-be"), newline=False).rstrip(b"=").replace(b"/", b",")
    return f"&{digits.decode('ascii')}-"
