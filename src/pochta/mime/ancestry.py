"""What THREAD=REFERENCES asks of a message: its own Message-ID and those of its ancestors, as hashes.

Layout of an ancestry (big endian): signed 64-bit hashes of 8 octets each, first that of the message's own Message-ID
(0 where it has no valid one), then those of its references, oldest first; last one octet, 1 where the subject marks a
reply or a forward, else 0. A hash stands for the id: that two ids of a mailbox of 2^20 messages share one has a chance
of 2^-24.

Source: RFC 5256 §3, THREAD=REFERENCES.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from struct import pack

from pochta.mime.header import message_ids

# RFC 5256 sets none. The first and the last ones: a reader needs the root and the parent, and programs that shorten
# References keep those (RFC 5537 §3.4.4); 33 hashes are 264 octets of a row.
MAX_ANCESTORS = 32

_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def ancestry(message_id: bytes, references: bytes, in_reply_to: bytes, *, is_reply: bool) -> bytes:
    """The ancestry of a message with these raw field bodies (empty where it lacks the field). 1 us for each id."""
    own = _valid_ids(message_id)[:1]
    ancestors = _valid_ids(references) if references else []
    if not ancestors and in_reply_to:
        # RFC 5256 §3: the first id of In-Reply-To, and only without References; others there may be addresses
        ancestors = _valid_ids(in_reply_to)[:1]
    if len(ancestors) > MAX_ANCESTORS:
        ancestors = [ancestors[0], *ancestors[1 - MAX_ANCESTORS :]]
    return _packed(own, ancestors, is_reply=is_reply)


def _packed(own: Sequence[bytes], ancestors: Sequence[bytes], *, is_reply: bool) -> bytes:
    hashes = [_digest(one) for one in (*own, *ancestors)]
    if not own:
        hashes.insert(0, bytes(8))
    hashes.append(pack("?", is_reply))
    return b"".join(hashes)


def _valid_ids(value: bytes) -> list[bytes]:
    """The ids of a field, normalised: `<"a"@b>` is `<a@b>`. RFC 5322 §3.6.4: an id holds an `@`."""
    found = [one for one in message_ids(value) if b"@" in one]
    if b'"' in value:
        # RFC 5256 §3: false non-matches due to differences in quoting are to be avoided
        return [_QUOTED.sub(lambda match: _ESCAPED.sub(rb"\1", match[1]), one) for one in found]
    return found


def _digest(one: bytes) -> bytes:
    return blake2b(one, digest_size=8).digest()
