"""Whether a message carries what its signers signed: one result for each signature.

Decides what one signature proves; refuses to know what follows from it (DMARC, the caller) and whether the From field
is one. The header is given at once, the body streams by, keys are asked for at the end, all at once.
"""

import asyncio
import hashlib
from typing import Final, NamedTuple

from pochta.dns import Resolver
from pochta.errors import LocalProtocolError
from pochta.policy.dkim.canon import CRLF, BodyHash, BodyHashes, Canonicalization, HeaderFields, relax_field
from pochta.policy.dkim.keys import Records, fetch_keys, read_key
from pochta.policy.dkim.signature import (
    MAX_SIGNATURE_BYTES,
    Described,
    Signature,
    describe,
    read_signature,
)
from pochta.policy.dkim.tags import SignatureFault, Tags, parse_tags, unfolded, without_signature
from pochta.policy.results import Dkim, DkimResult

# RFC 6376 §6.1: the number tried may be limited. KumoMTA tries 10; two by the author's domain, two by its provider and
# two for each of two lists are 8.
MAX_SIGNATURES: Final = 10
# A clock that took the hour of summer time wrong still passes; OpenDKIM allows 300 s, dkimpy 10 h.
CLOCK_SKEW_S: Final = 3600


class Outcome(NamedTuple):
    """What came of one signature; `is_test` as in `DkimResult`."""

    result: Dkim
    reason: str = ""
    is_test: bool = False


class DkimVerifier:
    """Checks the signatures of one message: `feed` the body, then `finish`.

    `header` is the header section as it came, lines with CRLF, with or without the blank line. With `body` the caller
    feeds that instead, once for everybody who shares it.
    """

    def __init__(
        self,
        header: bytes | HeaderFields,
        *,
        max_signatures: int = MAX_SIGNATURES,
        body: BodyHashes | None = None,
    ) -> None:
        self._header = header if isinstance(header, HeaderFields) else HeaderFields(header)
        self._shared = body is not None
        self._body = body if body is not None else BodyHashes()
        places = self._header.places(b"dkim-signature")
        self._left_out = len(places) > max_signatures
        self._read: list[tuple[int, Described, Signature | Outcome]] = []
        for place in [] if self._header.is_cut else places[:max_signatures]:
            described, signature = _read(self._header.value(place))
            if isinstance(signature, Signature):
                self._body.want(signature.body_form)
            self._read.append((place, described, signature))

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body, of any size.

        Raises:
            LocalProtocolError: the body is shared, or `finish` was called.
        """
        if self._shared:
            raise LocalProtocolError("a shared body is fed by its owner")
        self._body.feed(chunk)

    async def finish(self, resolver: Resolver, *, now_s: float) -> tuple[DkimResult, ...]:
        """One result for each signature, top to bottom; none where there is no signature.

        Of more than `max_signatures` the rest has one result together, `neutral`.
        """
        if self._header.is_cut:
            return (DkimResult(Dkim.PERMERROR, reason="too many header fields"),)
        wanted = [read.signer.key_name for _, _, read in self._read if isinstance(read, Signature)]
        records = await fetch_keys(resolver, wanted) if wanted else {}
        results: list[DkimResult] = []
        for place, said, read in self._read:
            if results:
                await asyncio.sleep(0)  # INV-12: over a header of a megabyte, each may take milliseconds
            results.append(self._result(place, said, read, records, now_s))
        if self._left_out:
            results.append(DkimResult(Dkim.NEUTRAL, reason="more signatures than are tried"))
        return tuple(results)

    def _result(
        self, place: int, said: Described, read: Signature | Outcome, records: dict[str, Records], now_s: float
    ) -> DkimResult:
        if isinstance(read, Signature):
            name = read.signer.key_name
            read = check_signature(self._header, place, read, self._body, records[name], now_s)
        return DkimResult(
            result=read.result,
            domain=said.domain,
            selector=said.selector,
            identity=said.identity,
            algorithm=said.algorithm,
            signature=said.signature,
            is_test=read.is_test,
            reason=read.reason,
        )


def check_signature(
    header: HeaderFields, place: int, signature: Signature, body: BodyHashes, records: Records, now_s: float
) -> Outcome:
    """What the signature in the field at `place` proves, given the key records of its signer. Never raises."""
    if isinstance(records, SignatureFault):
        return Outcome(records.result, records.reason)
    if lateness := _time_fault(signature, now_s):
        return Outcome(Dkim.POLICY, lateness)
    digest = _header_digest(header, place, signature)
    body_hash = body.result(signature.body_form)
    found: Outcome | None = None
    # RFC 6376 §6.1.2: of several records each may be tried.
    for record in records:
        outcome = _check_with(record, signature, digest, body_hash)
        if outcome.result is Dkim.PASS:
            return outcome
        if found is None or outcome.result is Dkim.FAIL:
            found = outcome
    return found or Outcome(Dkim.PERMERROR, "no key for signature")


def _check_with(record: bytes, signature: Signature, digest: bytes, body: BodyHash) -> Outcome:
    is_test = False
    try:
        key = read_key(record)
        is_test = key.is_test
        # RFC 6376 §3.6.1: t=s, the identity may not be of a subdomain.
        if key.is_strict and signature.identity_domain != signature.signer.domain:
            raise SignatureFault(Dkim.PERMERROR, "domain mismatch")
        _check_body(signature, body)
        key.verify(signature.signer.algorithm, signature.signer.signature, digest)
    except SignatureFault as fault:
        return Outcome(fault.result, fault.reason, is_test)
    return Outcome(Dkim.PASS, "", is_test)


def _check_body(signature: Signature, body: BodyHash) -> None:
    length_bytes = signature.length_bytes
    if length_bytes is not None and length_bytes != body.length_bytes:
        # RFC 6376 §3.5: l= must not be larger than the body.
        if length_bytes > body.length_bytes:
            raise SignatureFault(Dkim.PERMERROR, "body shorter than signed")
        # RFC 6376 §8.2: who appends to the body chooses what the reader sees; §6.1.1 lets a verifier refuse that. It is
        # not hashed, either: each l= would be one more hash of the whole message, asked for by its sender.
        raise SignatureFault(Dkim.POLICY, "body longer than signed")
    if signature.body_hash != body.digest:
        raise SignatureFault(Dkim.FAIL, "body hash did not verify")


def _time_fault(signature: Signature, now_s: float) -> str:
    # RFC 6376 §3.5: what is expired or from the future may be ignored.
    if signature.expires_at is not None and signature.expires_at + CLOCK_SKEW_S < now_s:
        return "signature expired"
    if signature.signed_at is not None and signature.signed_at - CLOCK_SKEW_S > now_s:
        return "signed in the future"
    return ""


def _header_digest(header: HeaderFields, place: int, signature: Signature) -> bytes:
    """Source: RFC 6376 §3.7, hash step 2."""
    own = without_signature(header.field(place))
    if signature.header_form is Canonicalization.RELAXED:
        own = relax_field(own).removesuffix(CRLF)
    fields = header.signed(signature.names, signature.header_form, without=place)
    return hashlib.sha256(fields + own).digest()


def _read(value: bytes) -> tuple[Described, Signature | Outcome]:
    tags: Tags = {}
    try:
        tags = parse_tags(value, MAX_SIGNATURE_BYTES)
        signature = read_signature(tags)
    except SignatureFault as fault:
        return describe(tags), Outcome(fault.result, fault.reason)
    signer = signature.signer
    text = unfolded(tags[b"b"])[:8].decode()
    return Described(signer.domain, signer.selector, signature.identity, signer.algorithm.value, text), signature
