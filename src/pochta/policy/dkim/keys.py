"""Keys: those of signers, read from their records, fetched and used; and our own, made, stored and published.

Nothing here prints a private key (INV-11); who keeps it and where is the caller's. Parsed records are remembered by
their text: parsing an RSA key takes 12 us, a verification with it 20 us.
"""

import asyncio
import binascii
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from pochta.dns import DnsError, Resolver
from pochta.errors import Corrupt
from pochta.policy.dkim.tags import SignatureFault, decode_base64, parse_tags, split_list, syntax_fault
from pochta.policy.results import Dkim

# RFC 8301 §3.2: under 1024 bits nothing is valid; up to 4096 bits must work, more may cost more than it proves.
MIN_RSA_BITS: Final = 1024
MAX_RSA_BITS: Final = 4096
# RFC 8301 §3.2: at least 2048 bits; a record of more needs answers over TCP from some resolvers.
RSA_BITS: Final = 2048
# OpenSSL's own bound for its larger keys: an exponent as long as the key makes one verification cost 30 ms.
MAX_RSA_EXPONENT_BITS: Final = 64
# An RSA key of 4096 bits is 736 octets of base64; the rest is for notes.
MAX_KEY_RECORD_BYTES: Final = 4096
# RFC 6376 §3.6.2.2 leaves several records undefined; one key beside one or two stray texts of a wildcard is in use.
MAX_KEY_RECORDS: Final = 4
# 1024 records of 4 KiB: 4 MiB at the most, 0.5 MiB in practice; a busy server meets a few hundred signers an hour.
REMEMBERED_KEYS: Final = 1024

PKCS1: Final = PKCS1v15()
SHA256_DIGEST: Final = Prehashed(SHA256())


class Algorithm(StrEnum):
    """Source: RFC 6376 §3.3 as updated by RFC 8301 §3.1 and RFC 8463 §3."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A usable key. `is_test`: t=y; `is_strict`: t=s, the identity's domain must be the signer's own."""

    key: RSAPublicKey | Ed25519PublicKey
    is_test: bool
    is_strict: bool

    def verify(self, algorithm: Algorithm, signature: bytes, digest: bytes) -> None:
        """Nothing, when `signature` is this key's over the SHA-256 `digest`.

        Raises:
            SignatureFault: it is not, or the key is of another kind.
        """
        try:
            if isinstance(self.key, RSAPublicKey) and algorithm is Algorithm.RSA_SHA256:
                self.key.verify(signature, digest, PKCS1, SHA256_DIGEST)
            elif isinstance(self.key, Ed25519PublicKey) and algorithm is Algorithm.ED25519_SHA256:
                # RFC 8463 §3: the hash is what Ed25519 signs.
                self.key.verify(signature, digest)
            else:
                raise SignatureFault(Dkim.PERMERROR, "inappropriate key algorithm")
        except InvalidSignature:
            raise SignatureFault(Dkim.FAIL, "signature did not verify") from None


@lru_cache(maxsize=REMEMBERED_KEYS)
def read_key(record: bytes) -> PublicKey:
    """The key of a record.

    Raises:
        SignatureFault: malformed, revoked, or not for mail signed with what we know.
    Source: RFC 6376 §3.6.1, §6.1.2.
    """
    tags = parse_tags(record, MAX_KEY_RECORD_BYTES)
    # RFC 6376 §3.6.1: v= comes first or not at all, and is compared as a string.
    if b"v" in tags and (next(iter(tags)) != b"v" or tags[b"v"] != b"DKIM1"):
        raise syntax_fault("key record of another version")
    if b"p" not in tags:
        raise syntax_fault("key record without key")
    if b"h" in tags and b"sha256" not in split_list(tags[b"h"]):
        raise SignatureFault(Dkim.PERMERROR, "inappropriate hash algorithm")
    if not {b"*", b"email"} & set(split_list(tags.get(b"s", b"*"))):
        raise SignatureFault(Dkim.PERMERROR, "key is not for mail")
    if not tags[b"p"]:
        raise SignatureFault(Dkim.PERMERROR, "key revoked")
    kind = tags.get(b"k", b"rsa").lower()
    flags = split_list(tags.get(b"t", b""))
    return PublicKey(_load_key(kind, decode_base64(tags[b"p"])), b"y" in flags, b"s" in flags)


def _load_key(kind: bytes, data: bytes) -> RSAPublicKey | Ed25519PublicKey:
    if kind == b"ed25519":
        # RFC 8463 §4.2: the 32 octets themselves.
        if len(data) != 32:
            raise syntax_fault("malformed key")
        return Ed25519PublicKey.from_public_bytes(data)
    if kind != b"rsa":
        raise SignatureFault(Dkim.PERMERROR, "unknown key type")
    try:
        # RFC 6376 §3.6.1 says RSAPublicKey, its examples are SubjectPublicKeyInfo: the library takes both.
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise syntax_fault("malformed key") from None
    if not isinstance(key, RSAPublicKey):
        raise syntax_fault("malformed key")
    if key.key_size < MIN_RSA_BITS:
        raise SignatureFault(Dkim.PERMERROR, "key too short")
    if key.key_size > MAX_RSA_BITS or key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise SignatureFault(Dkim.PERMERROR, "key too long")
    return key


Records = tuple[bytes, ...] | SignatureFault


async def fetch_keys(resolver: Resolver, names: Collection[str]) -> dict[str, Records]:
    """The key records of each name, or why there are none. All are asked for at once, each name once."""
    unique = list(dict.fromkeys(names))
    if len(unique) == 1:  # the common case needs no task
        return {unique[0]: await _fetch(resolver, unique[0])}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_fetch(resolver, name)) for name in unique]
    return {name: task.result() for name, task in zip(unique, tasks, strict=True)}


async def _fetch(resolver: Resolver, name: str) -> Records:
    try:
        answer = await resolver.txt(name)
    except DnsError:
        # RFC 6376 §6.1.2: no answer is TEMPFAIL.
        return SignatureFault(Dkim.TEMPERROR, "key unavailable")
    if not answer.records:
        return SignatureFault(Dkim.PERMERROR, "no key for signature")
    return answer.records[:MAX_KEY_RECORDS]


class SigningKey:
    """A private key. It shows itself neither in text nor in a traceback."""

    __slots__ = ("_key", "algorithm")

    def __init__(self, key: RSAPrivateKey | Ed25519PrivateKey) -> None:
        self._key = key
        self.algorithm = Algorithm.RSA_SHA256 if isinstance(key, RSAPrivateKey) else Algorithm.ED25519_SHA256

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm.value}, ***)"

    @classmethod
    def generate(cls, algorithm: Algorithm | str) -> "SigningKey":
        """A new key; an RSA key takes 50 to 500 ms, so not on the loop (INV-12).

        Its randomness is the library's: no seed of ours could reach it.
        """
        if Algorithm(algorithm) is Algorithm.RSA_SHA256:
            return cls(generate_private_key(public_exponent=65537, key_size=RSA_BITS))
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_bytes(cls, data: bytes) -> "SigningKey":
        """The key that `to_bytes` gave. An RSA key takes a millisecond: keep the object.

        Raises:
            Corrupt: anything else, or a key that was damaged.
        """
        try:
            # The library's own check of an RSA key takes 30 ms (INV-12); one signature that verifies shows as much.
            key = load_der_private_key(data, None, unsafe_skip_rsa_key_validation=True)
            if isinstance(key, RSAPrivateKey) and key.key_size >= RSA_BITS:
                signature = key.sign(bytes(32), PKCS1, SHA256_DIGEST)
                key.public_key().verify(signature, bytes(32), PKCS1, SHA256_DIGEST)
                return cls(key)
        except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
            raise Corrupt("DKIM key", "(private)") from None
        if isinstance(key, Ed25519PrivateKey):
            return cls(key)
        raise Corrupt("DKIM key", "(private)")

    def to_bytes(self) -> bytes:
        """PKCS #8 in DER, not encrypted: a secret."""
        return self._key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

    def public_record(self) -> str:
        """The text of the TXT record, up to 410 characters. Source: RFC 6376 §3.6.1, RFC 8463 §4.2."""
        if isinstance(self._key, RSAPrivateKey):
            data = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return f"v=DKIM1; k=rsa; p={encode_base64(data).decode()}"
        return f"v=DKIM1; k=ed25519; p={encode_base64(self._key.public_key().public_bytes_raw()).decode()}"

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature over a SHA-256 digest."""
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(digest, PKCS1, SHA256_DIGEST)
        return self._key.sign(digest)


def encode_base64(data: bytes) -> bytes:
    """On one line."""
    return binascii.b2a_base64(data, newline=False)
