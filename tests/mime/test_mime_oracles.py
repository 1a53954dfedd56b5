"""Real and generated messages against two parsers that share no code with ours, each difference explained.

A difference is told by the file and what differs: `tree` (types, nesting, number of parts), `body` (octets without
transfer encoding), `names` of files, `subject`, `addresses`. The tests fail on one that no table explains, and on an
explanation that is no longer needed.
"""

import email
import email.header
import email.message
import email.utils
from collections.abc import Callable

import fast_mail_parser
import pytest
from hypothesis import given, settings
from mime_corpus import corpus
from mime_messages import lawful

from pochta.mime.address import parse_addresses
from pochta.mime.decode import decode_text, decode_transfer, decode_words
from pochta.mime.facts import FactsBuilder, facts
from pochta.mime.header import split_fields
from pochta.mime.parse import Part, parse
from pochta.mime.text import file_name

Outline = tuple[str, object]
View = dict[str, object]

_STATUS = "it takes the blocks of a message/delivery-status for messages; in IMAP it is one part"
_EXTERNAL = "it takes the body of a message/external-body for a message; in IMAP it is one part"
_CLOSED = "a multipart that only has its closing delimiter: it is empty there, ours shows the text as a part"
STDLIB = {
    ("msg_16.txt", "tree"): _STATUS,
    ("msg_16.txt", "body"): _STATUS,
    ("msg_16.txt", "names"): _STATUS,
    ("msg_36.txt", "tree"): _EXTERNAL,
    ("msg_36.txt", "body"): _EXTERNAL,
    ("msg_36.txt", "names"): _EXTERNAL,
    ("msg_38.txt", "body"): "delimiters inside a text: its bodies begin at the first line that is no field",
    ("msg_42.txt", "tree"): _CLOSED,
    ("msg_42.txt", "body"): _CLOSED,
}
_SECOND = "it reads the first of two fields; ours joins them, so that no recipient is hidden"
FAST = {
    ("broken-cc", "addresses"): _SECOND,
    ("msg_05.txt", "addresses"): "an address without domain: it has none there",
    ("msg_14.txt", "tree"): "Content-Type `text` alone (RFC 1049) is text/plain",
    ("msg_20.txt", "addresses"): _SECOND,
    ("msg_42.txt", "body"): _CLOSED,
}


def shape(outline: Outline) -> object:
    """The outline without bodies."""
    name, inside = outline
    return (name, [shape(one) for one in inside]) if isinstance(inside, list) else name


def bodies(outline: Outline) -> list[object]:
    _, inside = outline
    return [body for one in inside for body in bodies(one)] if isinstance(inside, list) else [inside]


def one_line_end(body: bytes, encoding: str) -> bytes:
    """fast-mail-parser ends every line of quoted-printable with CRLF; the others leave line ends as they stand."""
    return body.replace(b"\r\n", b"\n") if encoding == "quoted-printable" else body


def our_outline(part: Part, message: bytes) -> Outline:
    name = (part.type + b"/" + part.subtype).decode()
    if part.children:
        return name, [our_outline(child, message) for child in part.children]
    body = decode_transfer(message[part.header_end : part.body_end], part.encoding)
    return name, one_line_end(body, part.encoding.decode("latin-1"))


def our_view(message: bytes) -> View:
    root = parse(message)
    outline = our_outline(root, message)
    subject = [decode_words(value) for _, name, value in split_fields(root.header) if name.lower() == b"subject"]
    to = [value for _, name, value in split_fields(root.header) if name.lower() in (b"to", b"cc")]
    return {
        "tree": shape(outline),
        "body": bodies(outline),
        "names": [file_name(part) for part in root.walk() if not part.children],
        "subject": " ".join(subject[0].split()) if subject else "",
        "addresses": [
            (decode_words(one.name or b""), decode_text(b"@".join(filter(None, (one.mailbox, one.host)))))
            for value in to
            for one in parse_addresses(value)
            if one.host is not None and one.mailbox is not None
        ],
    }


def stdlib_words(value: object) -> str:
    text = str(value)
    try:
        return str(email.header.make_header(email.header.decode_header(text)))
    except (email.header.HeaderParseError, LookupError, UnicodeError):
        return text


def stdlib_outline(part: email.message.Message) -> Outline:
    name = part.get_content_type()
    if part.is_multipart():
        return name, [stdlib_outline(child) for child in part.get_payload()]  # type: ignore[arg-type]
    body = part.get_payload(decode=True)
    assert isinstance(body, bytes)
    return name, one_line_end(body, str(part.get("content-transfer-encoding", "")).lower())


def stdlib_view(message: bytes) -> View:
    root = email.message_from_bytes(message)
    outline = stdlib_outline(root)
    pairs = email.utils.getaddresses([str(value) for value in root.get_all("to", []) + root.get_all("cc", [])])
    return {
        "tree": shape(outline),
        "body": bodies(outline),
        "names": [stdlib_words(part.get_filename("")) for part in root.walk() if not part.is_multipart()],
        "subject": " ".join(stdlib_words(root.get("subject", "")).split()),
        "addresses": [(stdlib_words(name), address) for name, address in pairs if address],
    }


def fast_outline(part: fast_mail_parser.PyMimePart) -> Outline:
    name = part.content_type.lower()
    if part.children or part.content is None:
        return name, [fast_outline(child) for child in part.children]
    encoding = part.headers.get("Content-Transfer-Encoding", [""])[0]
    return name, one_line_end(bytes(part.content), encoding.lower())


def fast_view(message: bytes) -> View:
    tree = fast_mail_parser.parse_email_tree(message)
    mail = fast_mail_parser.parse_email(message)
    outline = fast_outline(tree)
    return {
        "tree": shape(outline),
        "body": bodies(outline),
        "names": [part.filename for part in fast_mail_parser.walk(tree) if not part.children],
        "subject": " ".join(mail.subject.split()),
        "addresses": [(one.display_name or "", one.address) for one in [*mail.to, *mail.cc]],
    }


ORACLES = [pytest.param(stdlib_view, STDLIB, id="stdlib"), pytest.param(fast_view, FAST, id="fast-mail-parser")]


@pytest.mark.parametrize(("oracle", "explained"), ORACLES)
def test_corpus(oracle: Callable[[bytes], View], explained: dict[tuple[str, str], str]) -> None:
    if not corpus():
        pytest.skip("POCHTA_CORPUS names no folder of messages")
    found = {}
    for name, message in corpus().items():
        ours, theirs = our_view(message), oracle(message)
        found.update({(name, what): (ours[what], theirs[what]) for what in ours if ours[what] != theirs[what]})
    assert {key: both for key, both in found.items() if key not in explained} == {}
    assert set(explained) - set(found) == set()


def test_corpus_in_chunks() -> None:
    if not corpus():
        pytest.skip("POCHTA_CORPUS names no folder of messages")
    for name, message in corpus().items():
        builder = FactsBuilder(coalesce_bytes=1)
        for at in range(0, len(message), 61):
            builder.feed(message[at : at + 61])
        assert builder.finish() == facts(message), name


@pytest.mark.parametrize("oracle", [stdlib_view, fast_view])
@given(message=lawful())
@settings(max_examples=120, deadline=None)
def test_generated(oracle: Callable[[bytes], View], message: bytes) -> None:
    assert our_view(message) == oracle(message)
