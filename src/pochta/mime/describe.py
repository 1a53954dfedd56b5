"""ENVELOPE, BODY and BODYSTRUCTURE of a message as finished bytes of the IMAP wire.

The bytes suit RFC 3501 and RFC 9051 clients alike: 8-bit and control octets stand in literals, quoted strings are
7-bit. Nothing here recurses over the tree: its depth is the sender's.
"""

import re
from typing import Final, NamedTuple

from pochta.mime.address import Address, parse_addresses
from pochta.mime.header import Params, split_fields, unfold
from pochta.mime.parse import Fields, Part

# A header line has 998 octets; 32 of them in one string of a listing is more than any client shows. The whole field
# stays readable by BODY[HEADER].
MAX_STRING = 32 * 1024

_UNQUOTABLE = re.compile(rb"[\x00\r\n\x80-\xff]")
_SPECIAL = re.compile(rb'[\x00\r\n\x80-\xff"\\]')
_ESCAPED = re.compile(rb'(["\\])')
_LISTS = frozenset((b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc"))
_ENVELOPE_FIELDS = _LISTS | {b"date", b"subject", b"in-reply-to", b"message-id"}
# What a structure that differs for IMAP4rev2 contains, as `_describe` writes it
GLOBAL_MARK: Final = b'"message" "global"'
# RFC 3501 §9: of messages only MESSAGE/RFC822 has an envelope in the structure, and a client that expects none in
# MESSAGE/GLOBAL cannot read the rest of the line. RFC 9051 §9 has the envelope for both.
_MESSAGES: Final = frozenset((b"rfc822",))
_MESSAGES_REV2: Final = frozenset((b"rfc822", b"global"))
# RFC 3501 §9: literals carry CHAR8, which is any octet but NUL; UW-IMAP and Dovecot put 0x80 in its place.
_NUL_SUBSTITUTE = b"\x80"


class Envelope(NamedTuple):
    """The fields of ENVELOPE; raw and unfolded strings, None where the header field is absent."""

    date: bytes | None
    subject: bytes | None
    from_: list[Address]
    sender: list[Address]
    reply_to: list[Address]
    to: list[Address]
    cc: list[Address]
    bcc: list[Address]
    in_reply_to: bytes | None
    message_id: bytes | None


def string(value: bytes) -> bytes:
    """An IMAP string: quoted where RFC 3501 §9 allows it, else a literal."""
    value = value[:MAX_STRING]
    if not _SPECIAL.search(value):
        return b'"%b"' % value
    if _UNQUOTABLE.search(value):
        value = value.replace(b"\x00", _NUL_SUBSTITUTE)
        return b"{%d}\r\n%b" % (len(value), value)
    return b'"%b"' % _ESCAPED.sub(rb"\\\1", value)


def nstring(value: bytes | None) -> bytes:
    """An IMAP string, NIL for None."""
    return b"NIL" if value is None else string(value)


def read_envelope(fields: Fields) -> Envelope:
    """The envelope fields of a split header; a field that stands twice: addresses are joined, of strings the first."""
    found: dict[bytes, bytes] = {}
    for _, name, value in fields:
        key = name.lower()
        if key in _ENVELOPE_FIELDS:
            if key not in found:
                found[key] = value
            elif key in _LISTS:
                # DEVIATES RFC 5322 §3.6: a second To or Cc counts as more of the first, so that no recipient is hidden
                found[key] = found[key].rstrip() + b",\n " + value
    get = found.get
    addresses = {key: parse_addresses(found[key].strip()) for key in _LISTS if key in found}
    from_ = addresses.get(b"from", [])
    return Envelope(
        _text(get(b"date")),
        _text(get(b"subject")),
        from_,
        # RFC 9051 §7.5.2: Sender and Reply-To default to From, also when present but empty
        addresses.get(b"sender") or from_,
        addresses.get(b"reply-to") or from_,
        addresses.get(b"to", []),
        addresses.get(b"cc", []),
        addresses.get(b"bcc", []),
        _text(get(b"in-reply-to")),
        _text(get(b"message-id")),
    )


def _text(value: bytes | None) -> bytes | None:
    return None if value is None else unfold(value)


def _address_list(addresses: list[Address]) -> bytes:
    if not addresses:
        return b"NIL"
    if not _SPECIAL.search(b"".join([item for address in addresses for item in address if item is not None])):
        # the usual case, one test for all strings: nothing to escape
        return b"(%b)" % b"".join([_plain_address(address) for address in addresses])
    return b"(%b)" % b"".join([b"(%b)" % b" ".join([nstring(item) for item in address]) for address in addresses])


def _plain_address(address: Address) -> bytes:
    name, route, mailbox, host = address
    if mailbox is None or host is None or route is not None:
        return b"(%b)" % b" ".join([nstring(item) for item in address])
    if name is None:
        return b'(NIL NIL "%b" "%b")' % (mailbox[:MAX_STRING], host[:MAX_STRING])
    return b'("%b" NIL "%b" "%b")' % (name[:MAX_STRING], mailbox[:MAX_STRING], host[:MAX_STRING])


def envelope_bytes(env: Envelope) -> bytes:
    """The parenthesised ENVELOPE. Source: RFC 9051 §7.5.2."""
    from_ = _address_list(env.from_)
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        nstring(env.date),
        nstring(env.subject),
        from_,
        from_ if env.sender is env.from_ else _address_list(env.sender),
        from_ if env.reply_to is env.from_ else _address_list(env.reply_to),
        _address_list(env.to),
        _address_list(env.cc),
        _address_list(env.bcc),
        nstring(env.in_reply_to),
        nstring(env.message_id),
    )


def envelope(part: Part) -> bytes:
    """The ENVELOPE of the message that `part` is the root of."""
    return envelope_bytes(read_envelope(split_fields(part.header)))


def body_structure(part: Part, *, is_rev2: bool = False) -> bytes:
    """BODYSTRUCTURE, with extension data, for a client of IMAP4rev1 or of IMAP4rev2. Source: RFC 9051 §7.5.2."""
    return _describe(part, _MESSAGES_REV2 if is_rev2 else _MESSAGES, with_extension=True)


def body(part: Part, *, is_rev2: bool = False) -> bytes:
    """BODY: the structure without extension data. Source: RFC 9051 §7.5.2."""
    return _describe(part, _MESSAGES_REV2 if is_rev2 else _MESSAGES, with_extension=False)


def _describe(root: Part, messages: frozenset[bytes], *, with_extension: bool) -> bytes:
    out: list[bytes] = []
    stack: list[Part | bytes] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, bytes):
            out.append(item)
        elif item.is_multipart:
            tail = b" " + string(item.subtype)
            if with_extension:
                tail += b" %b%b" % (_params(item.params), _common_extension(item))
            out.append(b"(")
            stack.append(tail + b")")
            stack.extend(reversed(item.children))
        else:
            message = item.message if item.subtype in messages else None
            tail = b" " + nstring(item.md5) + _common_extension(item) if with_extension else b""
            if message is not None:
                out.append(b"(%b %b " % (_basic_fields(item), envelope(message)))
                stack.append(b" %d%b)" % (item.lines, tail))
                stack.append(message)
            elif item.type == b"text":
                out.append(b"(%b %d%b)" % (_basic_fields(item), item.lines, tail))
            else:
                out.append(b"(%b%b)" % (_basic_fields(item), tail))
    return b"".join(out)


def _basic_fields(part: Part) -> bytes:
    if not part.has_content_type and part.type == b"text":
        # RFC 2045 §5.2: without Content-Type a body is text/plain; charset=us-ascii
        params = b'("charset" "us-ascii")'
    else:
        params = _params(part.params)
    return b"%b %b %b %b %b %b %d" % (
        string(part.type),
        string(part.subtype),
        params,
        nstring(part.content_id),
        nstring(part.description),
        string(part.encoding),
        part.size,
    )


def _common_extension(part: Part) -> bytes:
    """Disposition, language and location, each after a space."""
    if part.disposition is None:
        disposition = b"NIL"
    else:
        disposition = b"(%b %b)" % (string(part.disposition[0]), _params(part.disposition[1]))
    if not part.language:
        language = b"NIL"
    elif len(part.language) == 1:
        language = string(part.language[0])
    else:
        language = b"(%b)" % b" ".join([string(tag) for tag in part.language])
    return b" %b %b %b" % (disposition, language, nstring(part.location))


def _params(params: Params) -> bytes:
    if not params:
        return b"NIL"
    # DEVIATES RFC 9051 §7.5.2: `name*` keeps its charset'language'percent form instead of bare UTF-8: deployed clients
    # decode that form, and could not tell a bare value that contains a quote or a percent sign from it.
    return b"(%b)" % b" ".join([b"%b %b" % (string(name), string(value)) for name, value in params])
