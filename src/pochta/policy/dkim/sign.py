"""Our own signatures: the fields that go on top of a message, which is hashed once for all its keys."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from pochta.policy.dkim.canon import CRLF, BodyHashes, Canonicalization, HeaderFields, relax_field
from pochta.policy.dkim.keys import SigningKey, encode_base64
from pochta.proto.address import to_a_labels

# RFC 5322 §2.1.1: 78 characters; two are left for those who quote.
MAX_LINE: Final = 76
# RFC 5322 §3.6: fields that stand once at most. A name listed once more than it stands lets nobody add another that a
# reader might be shown instead (RFC 6376 §8.15), also where there was none: an added Reply-To, Cc or Content-Type
# changes what the reader does or sees.
OVERSIGNED: Final = (
    b"from", b"to", b"cc", b"subject", b"date", b"reply-to", b"message-id", b"in-reply-to", b"references",
    b"mime-version", b"content-type", b"content-transfer-encoding",
)  # fmt: skip
# RFC 6376 §5.4.1: signed where they stand, but not closed: a list adds its Sender and List fields, a resender its own.
SIGNED: Final = (
    b"sender", b"content-disposition", b"content-id", b"content-description", b"content-language", b"content-location",
    b"list-id", b"list-help", b"list-unsubscribe", b"list-unsubscribe-post", b"list-subscribe", b"list-post",
    b"list-owner", b"list-archive", b"resent-date", b"resent-from", b"resent-to", b"resent-cc", b"resent-sender",
    b"resent-message-id",
)  # fmt: skip
# What stands more often than this is not a message of ours; the bound keeps h= within what verifiers read.
MAX_SIGNED_INSTANCES: Final = 20


def sign(
    header: bytes | HeaderFields,
    body: BodyHashes | Iterable[bytes],
    keys: Sequence[tuple[str, str, SigningKey]],
    *,
    now_s: float,
    expires_s: int | None = None,
) -> bytes:
    """DKIM-Signature fields, folded, one for each (selector, domain, key) in their order; to stand before the header.

    `body` is its pieces, or hashes that want the relaxed form and were fed. `expires_s`: x= so long after now. Cost: an
    RSA signature takes 0.6 ms.

    Raises:
        AddressError: a domain has no A-label form.
    Source: RFC 6376 §5, RFC 8463 §6.
    """
    fields = header if isinstance(header, HeaderFields) else HeaderFields(header)
    if not isinstance(body, BodyHashes):
        chunks, body = body, BodyHashes(Canonicalization.RELAXED)
        for chunk in chunks:
            body.feed(chunk)
    body_hash = encode_base64(body.result(Canonicalization.RELAXED).digest)
    names = _names_to_sign(fields)
    signed = hashlib.sha256(fields.signed(names, Canonicalization.RELAXED))
    times = [b"t=%d;" % now_s]
    if expires_s is not None:
        times.append(b"x=%d;" % (now_s + expires_s))
    finished: list[bytes] = []
    for selector, domain, key in keys:
        # RFC 6376 §3.5: internationalized names as A-labels.
        words = [
            b"v=1;",
            b"a=%s;" % key.algorithm.encode(),
            b"c=relaxed/relaxed;",
            b"d=%s;" % to_a_labels(domain).encode(),
            b"s=%s;" % selector.lower().encode(),
            *times,
        ]
        lines = _fold(b"DKIM-Signature:", words, b" ")
        lines += _fold(b"\th=", [name + b":" for name in names[:-1]] + [names[-1] + b";"], b"")
        unsigned = CRLF.join([*lines, b"\tbh=%s;" % body_hash, b"\tb="])
        digest = signed.copy()
        digest.update(relax_field(unsigned).removesuffix(CRLF))
        value = encode_base64(key.sign_digest(digest.digest()))
        pieces = [value[at : at + MAX_LINE - 4] for at in range(0, len(value), MAX_LINE - 4)]
        finished.append(unsigned + b"\r\n\t ".join(pieces) + CRLF)
    return b"".join(finished)


def _names_to_sign(fields: HeaderFields) -> list[bytes]:
    """h=: what stands, bottom first, and one more of each over-signed name."""
    names: list[bytes] = []
    for name in OVERSIGNED:
        names += [name] * (min(len(fields.places(name)), MAX_SIGNED_INSTANCES) + 1)
    for name in SIGNED:
        names += [name] * min(len(fields.places(name)), MAX_SIGNED_INSTANCES)
    return names


def _fold(start: bytes, words: list[bytes], space: bytes) -> list[bytes]:
    """Lines of at most MAX_LINE octets, where the words allow."""
    lines = [start]
    for word in words:
        if len(lines[-1]) + len(space) + len(word) > MAX_LINE:
            lines.append(b"\t" + word)
        else:
            lines[-1] += space + word
    return lines
