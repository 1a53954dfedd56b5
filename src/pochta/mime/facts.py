"""Everything the store keeps about a message besides its bytes, from one pass over them."""

from typing import NamedTuple

from pochta.mime.address import Address
from pochta.mime.ancestry import ancestry
from pochta.mime.core import header_core
from pochta.mime.decode import decode_text
from pochta.mime.describe import body_structure, envelope_bytes, read_envelope
from pochta.mime.header import message_id, parse_date, references
from pochta.mime.parse import COALESCE_BYTES, STEPS_PER_FEED, Part, Scanner
from pochta.mime.section import has_blank_line
from pochta.mime.subject import base_subject_and_kind
from pochta.mime.text import preview

# RFC 5321 §4.5.3.1.1 allows local parts of 64 octets; twice that in characters, for lists sorted by a mangled one.
MAX_SORT_KEY = 128


class MessageFacts(NamedTuple):
    """What a mailbox listing, SORT, THREAD and SEARCH ask of a message.

    `sent_at` UTC epoch seconds; `sent_day` days since the epoch as the Date header's own zone counts (SENTON and its
    kin, RFC 9051 §6.4.4); both None without a readable date. `from_key`, `to_key`, `cc_key`: casefolded mailbox of the
    first address (RFC 5256 §3), "" without one. `base_subject` keeps its case. `received_count`: Received fields, which
    tell a message that runs in a circle (RFC 5321 §6.3). `ancestry`: as that module says. `has_opaque_part`: a limit of
    `parse` was met, some part is not described any further (`Part.is_opaque`).
    """

    size: int
    header_size: int
    envelope: bytes
    body_structure: bytes
    header_core: bytes
    preview: str
    sent_at: int | None
    sent_day: int | None
    message_id: bytes | None
    references: tuple[bytes, ...]
    ancestry: bytes
    base_subject: str
    from_key: str
    to_key: str
    cc_key: str
    received_count: int
    has_opaque_part: bool


class FactsBuilder:
    """Facts of a message that is fed in chunks of any size; memory bounded by the limits of `parse`.

    A feed takes a few milliseconds whatever the message is, `finish` up to 70 ms: not for the event loop (INV-12).
    """

    __slots__ = ("_scanner",)

    def __init__(self, *, coalesce_bytes: int = COALESCE_BYTES) -> None:
        self._scanner = Scanner(coalesce_bytes=coalesce_bytes, steps_per_feed=STEPS_PER_FEED)

    @property
    def held_bytes(self) -> int:
        """About what is kept in memory now."""
        return self._scanner.held_bytes

    def feed(self, chunk: bytes) -> None:
        """Takes the next octets of the message."""
        self._scanner.feed(chunk)

    def finish(self) -> MessageFacts:
        """The facts; nothing may be fed afterwards."""
        scanner = self._scanner
        root = scanner.finish()
        return _facts(root, scanner)


def facts(message: bytes) -> MessageFacts:
    """The facts of a whole message; the fastest way."""
    builder = FactsBuilder(coalesce_bytes=len(message) + 1)
    builder.feed(message)
    return builder.finish()


def _facts(root: Part, scanner: Scanner) -> MessageFacts:
    fields = scanner.root_fields
    env = read_envelope(fields)
    sent = parse_date(env.date) if env.date else None
    subject, is_reply = base_subject_and_kind(env.subject) if env.subject else ("", False)
    own_id, in_reply_to = env.message_id or b"", env.in_reply_to or b""
    references_value = b""
    for _, name, value in fields:
        if len(name) == 10 and name.lower() == b"references":
            references_value = value
            break
    return MessageFacts(
        scanner.size,
        root.header_end,
        envelope_bytes(env),
        body_structure(root),
        header_core(fields, has_blank_line=has_blank_line(root.header)),
        preview(root),
        sent.at if sent else None,
        sent.day if sent else None,
        message_id(own_id) if own_id else None,
        references(references_value, in_reply_to),
        ancestry(own_id, references_value, in_reply_to, is_reply=is_reply),
        subject,
        _sort_key(env.from_),
        _sort_key(env.to),
        _sort_key(env.cc),
        sum(1 for _, name, _ in fields if len(name) == 8 and name.lower() == b"received"),
        scanner.has_opaque_part,
    )


def _sort_key(addresses: list[Address]) -> str:
    mailbox = addresses[0].mailbox if addresses else None
    # casefold may lengthen: cut behind it
    return decode_text(mailbox[: MAX_SORT_KEY * 4]).casefold()[:MAX_SORT_KEY] if mailbox else ""
