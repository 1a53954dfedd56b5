"""Real and hostile messages against the standard library's parser."""

import email
import email.message
import os
from pathlib import Path

import pytest

from pochta.mime.facts import FactsBuilder, facts
from pochta.mime.header import decode_base64
from pochta.mime.parse import Part, parse

_FOLDERS = (
    "notmuch-default",
    "notmuch-broken",
    "notmuch-html",
    "notmuch-attachment",
    "notmuch-threading",
    "mime-cpython",
)
_NOT_MAIL = (".bmp", ".gif", ".png", ".pbm", ".xbm", ".ras", ".tiff", ".aiff", ".wav")
# What the standard library reads otherwise, and why ours stays.
KNOWN = {
    "msg_16.txt": "it takes the blocks of a message/delivery-status for messages; in IMAP it is one part",
    "msg_36.txt": "it takes the body of a message/external-body for a message; in IMAP it is one part",
    "msg_38.txt": "delimiters inside a text: its bodies begin at the first line that is no field",
    "msg_42.txt": "a multipart that only has its closing delimiter: it is empty there, ours shows the text as a part",
}


def corpus() -> list[Path]:
    folder = os.environ.get("POCHTA_CORPUS")
    if not folder:
        return []
    found = [path for name in _FOLDERS for path in sorted((Path(folder) / name).rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix not in _NOT_MAIL]


def outline(part: Part, message: bytes) -> object:
    name = (part.type + b"/" + part.subtype).decode()
    if part.children:
        return name, [outline(child, message) for child in part.children]
    body = message[part.header_end : part.body_end]
    return name, decode_base64(body) if part.encoding == b"base64" else body


def stdlib_outline(part: email.message.Message) -> object:
    name = part.get_content_type()
    if part.is_multipart():
        return name, [stdlib_outline(child) for child in part.get_payload()]  # type: ignore[arg-type]
    payload = part.get_payload(decode=True) if part.get("content-transfer-encoding", "").lower() == "base64" else None
    if payload is None:
        del part["content-transfer-encoding"]
        payload = part.get_payload(decode=True)
    return name, payload


def test_corpus() -> None:
    messages = corpus()
    if not messages:
        pytest.skip("POCHTA_CORPUS names no folder of messages")
    differing = set()
    for path in messages:
        message = path.read_bytes()
        if outline(parse(message), message) != stdlib_outline(email.message_from_bytes(message)):
            differing.add(path.name)
        builder = FactsBuilder(coalesce_bytes=1)
        for at in range(0, len(message), 61):
            builder.feed(message[at : at + 61])
        assert builder.finish() == facts(message), path.name
    assert differing == set(KNOWN)
