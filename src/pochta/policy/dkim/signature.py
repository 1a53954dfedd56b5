"""A signature field as read: who signed, what, and how. DKIM-Signature and the two like it of ARC.

Every value is checked before it is believed; a domain comes out in A-labels, and no text holds a control character.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pochta.policy.dkim.canon import Canonicalization
from pochta.policy.dkim.keys import Algorithm
from pochta.policy.dkim.tags import SignatureFault, Tags, decode_base64, split_list, syntax_fault, unfolded
from pochta.policy.results import Dkim
from pochta.proto.address import AddressError, to_a_labels

# Room for z= with a copy of a usual header; a whole header of Sendmail has 32 KiB at most.
MAX_SIGNATURE_BYTES: Final = 32768
# RFC 5321 §4.5.3.1: 64 octets of local part, "@", 255 of domain.
MAX_IDENTITY_BYTES: Final = 320
MAX_NAME_BYTES: Final = 253  # RFC 1035 §2.3.4, as text

DKIM_REQUIRED: Final = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
AMS_REQUIRED: Final = (b"i", b"a", b"b", b"bh", b"d", b"h", b"s")
SEAL_REQUIRED: Final = (b"i", b"a", b"b", b"cv", b"d", b"s")

# DEVIATES RFC 6376 §3.1: an underscore in a selector is taken; DNS has no objection and signers use it.
_SELECTOR: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*)(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_FIELD_NAME: Final = re.compile(rb"[!-9;-~]+")
_LENGTH: Final = re.compile(rb"[0-9]{1,76}")  # RFC 6376 §3.5, l=
_TIME: Final = re.compile(rb"[0-9]{1,12}")  # RFC 6376 §3.5, t= and x=
_HEX_OCTET: Final = re.compile(rb"=([0-9A-F]{2})")
_ALGORITHM: Final = re.compile(rb"[a-z0-9]{1,20}-[a-z0-9]{1,20}")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/=]+")


@dataclass(frozen=True, slots=True)
class Signer:
    """Who vouches, with which key and which octets."""

    algorithm: Algorithm
    signature: bytes
    domain: str
    selector: str

    @property
    def key_name(self) -> str:
        """Where the key's record stands. Source: RFC 6376 §3.6.2.1."""
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, slots=True)
class Signature:
    """What is signed and under which conditions. `names` in lower case; `length_bytes`, `signed_at` (t=) and
    `expires_at` (x=) None where absent; `identity` and its domain as i= says, else `@` and the signer's domain."""

    signer: Signer
    body_hash: bytes
    header_form: Canonicalization
    body_form: Canonicalization
    names: tuple[bytes, ...]
    identity: str
    identity_domain: str
    length_bytes: int | None
    signed_at: int | None
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Described:
    """What the report on a field says of it; "" where that cannot be shown."""

    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    signature: str = ""


def require(tags: Tags, names: tuple[bytes, ...]) -> None:
    """Nothing, when all these tags are there and say something.

    Raises:
        SignatureFault: one is missing or empty.
    """
    if not all(map(tags.get, names)):
        # RFC 6376 §6.1.1: a required tag that is omitted is PERMFAIL.
        raise syntax_fault("missing required tag")


def read_signer(tags: Tags) -> Signer:
    """The part that all three fields share.

    Raises:
        SignatureFault: a value is not what it must be.
    """
    name = tags[b"a"].lower()
    if name == b"rsa-sha1":
        # RFC 8301 §3.1: signatures by historic algorithms have permanently failed evaluation.
        raise SignatureFault(Dkim.PERMERROR, "rsa-sha1 is historic")
    if name not in (Algorithm.RSA_SHA256.encode(), Algorithm.ED25519_SHA256.encode()):
        # RFC 6376 §3.3.4: signatures by unknown algorithms are ignored.
        raise SignatureFault(Dkim.NEUTRAL, "unknown algorithm")
    return Signer(Algorithm(name.decode()), decode_base64(tags[b"b"]), _domain(tags[b"d"]), _selector(tags[b"s"]))


def read_signature(tags: Tags, *, is_arc: bool = False) -> Signature:
    """The signature of a DKIM-Signature field, or (`is_arc`) of an ARC-Message-Signature.

    Raises:
        SignatureFault: a tag is missing or its value is not what it must be.
    Source: RFC 6376 §3.5, §6.1.1; RFC 8617 §4.1.2.
    """
    require(tags, AMS_REQUIRED if is_arc else DKIM_REQUIRED)
    # RFC 8617 §4.1.2: v= is not defined there and ignored.
    if not is_arc and tags[b"v"] != b"1":
        raise SignatureFault(Dkim.PERMERROR, "incompatible version")
    signer = read_signer(tags)
    header_form, body_form = _forms(tags.get(b"c", b"simple"))
    body_hash = decode_base64(tags[b"bh"])
    if len(body_hash) != 32:
        raise syntax_fault("malformed body hash")
    # RFC 6376 §3.5: unknown query methods are ignored; without a known one no key can be had.
    if b"dns/txt" not in split_list(tags.get(b"q", b"dns/txt")):
        raise SignatureFault(Dkim.NEUTRAL, "unknown query method")
    identity, identity_domain = "@" + signer.domain, signer.domain
    if not is_arc and b"i" in tags:
        identity, identity_domain = _identity(tags[b"i"], signer.domain)
    signed_at = _number(tags.get(b"t"), _TIME)
    expires_at = _number(tags.get(b"x"), _TIME)
    # RFC 6376 §3.5: x= must be greater than t=.
    if signed_at is not None and expires_at is not None and expires_at <= signed_at:
        raise syntax_fault("expired before it was signed")
    return Signature(
        signer=signer,
        body_hash=body_hash,
        header_form=header_form,
        body_form=body_form,
        names=_names(tags[b"h"]),
        identity=identity,
        identity_domain=identity_domain,
        length_bytes=_number(tags.get(b"l"), _LENGTH),
        signed_at=signed_at,
        expires_at=expires_at,
    )


def describe(tags: Tags) -> Described:
    """What can be said of a signature whether or not it is well formed."""
    domain = _shown(_domain, tags.get(b"d", b""))
    identity = "@" + domain if domain else ""
    if b"i" in tags:
        identity = _shown(lambda value: _identity(value, domain)[0], tags[b"i"])
    algorithm = tags.get(b"a", b"").lower()
    signature = unfolded(tags.get(b"b", b""))[:8]
    return Described(
        domain,
        _shown(_selector, tags.get(b"s", b"")),
        identity,
        algorithm.decode() if _ALGORITHM.fullmatch(algorithm) else "",
        signature.decode() if _BASE64.fullmatch(signature) else "",
    )


def _shown(read: Callable[[bytes], str], value: bytes) -> str:
    try:
        return read(value)
    except SignatureFault:
        return ""


def _forms(value: bytes) -> tuple[Canonicalization, Canonicalization]:
    header, slash, body = value.lower().decode("latin-1").partition("/")
    try:
        # RFC 6376 §3.5: one name alone is the header's; the body's is then simple.
        return Canonicalization(header), Canonicalization(body if slash else "simple")
    except ValueError:
        # RFC 6376 §3.4: signatures with unknown canonicalizations are ignored.
        raise SignatureFault(Dkim.NEUTRAL, "unknown canonicalization") from None


def _domain(value: bytes) -> str:
    try:
        # RFC 6376 §3.5: A-labels; RFC 8617 §4.1.4: U-labels in internationalized messages.
        domain = to_a_labels(value.decode())
    except (AddressError, UnicodeDecodeError):
        raise syntax_fault("malformed domain") from None
    # RFC 6376 §3.5: at least two labels, and no address literal.
    if "." not in domain or domain.startswith("["):
        raise syntax_fault("malformed domain")
    return domain


def _selector(value: bytes) -> str:
    try:
        text = value.decode()
        if not text.isascii():
            text = to_a_labels(text)
    except (AddressError, UnicodeDecodeError):
        raise syntax_fault("malformed selector") from None
    if len(text) > MAX_NAME_BYTES or not _SELECTOR.fullmatch(text):
        raise syntax_fault("malformed selector")
    return text.lower()


def _names(value: bytes) -> tuple[bytes, ...]:
    names = tuple(split_list(value))
    if not all(map(_FIELD_NAME.fullmatch, names)):
        raise syntax_fault("malformed list of fields")
    # RFC 6376 §6.1.1: h= without From is PERMFAIL.
    if b"from" not in names:
        raise SignatureFault(Dkim.PERMERROR, "From is not signed")
    return names


def _identity(value: bytes, domain: str) -> tuple[str, str]:
    """i= decoded, and its domain in A-labels."""
    raw = _HEX_OCTET.sub(lambda match: bytes.fromhex(match[1].decode()), unfolded(value))
    local_part, at, host = raw.rpartition(b"@")
    try:
        text = local_part.decode()
    except UnicodeDecodeError:
        raise syntax_fault("malformed identity") from None
    # A line end out of "=0D=0A" must not reach a header field of ours.
    if not at or len(raw) > MAX_IDENTITY_BYTES or not text.isprintable():
        raise syntax_fault("malformed identity")
    identity_domain = _domain(host)
    # RFC 6376 §6.1.1: d= is the same as or a parent of the domain of i=.
    if identity_domain != domain and not identity_domain.endswith("." + domain):
        raise SignatureFault(Dkim.PERMERROR, "domain mismatch")
    return f"{text}@{identity_domain}", identity_domain


def _number(value: bytes | None, pattern: re.Pattern[bytes]) -> int | None:
    if value is None:
        return None
    if not pattern.fullmatch(value):
        raise syntax_fault("malformed number")
    return int(value)
