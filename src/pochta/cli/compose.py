"""A message made of what a command line gives: text, subject, files, recipients; or one that is there already."""

import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pochta.errors import Refusal, RefusalCode

_BARE_NEWLINE: Final = re.compile(rb"(?<!\r)\n")
_LONE_CR: Final = re.compile(rb"\r(?!\n)")
_OTHER: Final = "application/octet-stream"


class Attachment(NamedTuple):
    """A file to be sent with a message."""

    name: str
    data: bytes


def read_attachment(path: Path, limit_bytes: int) -> Attachment:
    """The file's name and content.

    Raises:
        OSError; Refusal: TOO_LARGE.
    """
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    check_size(len(data), limit_bytes)
    return Attachment(path.name, data)


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Nothing, when so much may be sent.

    Raises:
        Refusal: TOO_LARGE.
    """
    if size_bytes > limit_bytes:
        raise Refusal(RefusalCode.TOO_LARGE, f"the message is over {limit_bytes} bytes (`limits.message_size_bytes`)")


def with_crlf(data: bytes) -> bytes:
    """The message with CRLF at the ends of its lines.

    Raises:
        Refusal: CANNOT, it has a CR by itself, which could be read as the end of a line or not.
    """
    if _LONE_CR.search(data):
        raise Refusal(RefusalCode.CANNOT, "the message has a CR that is not followed by LF; remove it")
    return _BARE_NEWLINE.sub(b"\r\n", data)


def compose(
    text: str, *, sender: str, recipients: Sequence[str], subject: str | None, attachments: Sequence[Attachment]
) -> bytes:
    """The message, with CRLF; Date and Message-ID are left to whoever sends it."""
    from email import policy
    from email.message import EmailMessage

    is_ascii = all(one.isascii() for one in (sender, *recipients))
    # RFC 6532 §3.2: UTF-8 stands in the header where an address needs it; everybody reads the older form of the rest
    message = EmailMessage(policy.SMTP if is_ascii else policy.SMTPUTF8)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    if subject is not None:
        message["Subject"] = subject
    message.set_content(text)
    for one in attachments:
        kind, encoding = mimetypes.guess_type(one.name)
        # what is compressed is not what its name says below the last dot
        main, _, sub = (kind if kind is not None and encoding is None else _OTHER).partition("/")
        if main in ("message", "multipart"):
            main, _, sub = _OTHER.partition("/")  # attached as it is; those may not be put into base64
        message.add_attachment(one.data, maintype=main, subtype=sub, filename=one.name)
    return message.as_bytes()
