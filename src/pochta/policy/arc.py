"""Whether a message's Authenticated Received Chain holds: who handled it, and what each of them saw.

Decides the chain's status and which handlers' signatures still fit the message; refuses to know whom to believe. Any
failure is for good, also one of DNS (RFC 8617 §5.2.1): the reason says so. Sealing is not here.
"""

import asyncio
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from pochta.dns import Resolver
from pochta.errors import LocalProtocolError
from pochta.mime.header import unfold
from pochta.policy.dkim.canon import CRLF, BodyHashes, Canonicalization, HeaderFields, relax_field
from pochta.policy.dkim.keys import Records, fetch_keys, read_key
from pochta.policy.dkim.signature import (
    MAX_SIGNATURE_BYTES,
    SEAL_REQUIRED,
    Signature,
    Signer,
    read_signature,
    read_signer,
    require,
)
from pochta.policy.dkim.tags import SignatureFault, Tags, parse_tags, syntax_fault, without_signature
from pochta.policy.dkim.verify import Outcome, check_signature
from pochta.policy.results import Arc, ArcResult, Dkim

# RFC 8617 §4.2.1: instances are 1 to 50.
MAX_INSTANCES: Final = 50
# One verification with a key of 4096 bits takes 0.1 ms: 20 are 2 ms, a fifth of what INV-12 allows.
CHECKS_PER_SLICE: Final = 20

_RESULTS: Final = b"arc-authentication-results"
_MESSAGE: Final = b"arc-message-signature"
_SEAL: Final = b"arc-seal"
_POSITION: Final = re.compile(rb"[0-9]{1,2}")
# RFC 8617 §4.1.1: instance, then the results; comments without nesting.
_INSTANCE: Final = re.compile(rb"(?:\s++|\([^()]{0,200}\)){0,20}i\s*=\s*([0-9]{1,2})(?:\s++|\([^()]{0,200}\)){0,20};")


@dataclass(frozen=True, slots=True)
class _Set:
    """The three fields of one instance: where they stand, and what they say."""

    results_place: int
    message_place: int
    message_tags: Tags
    seal_place: int
    seal_tags: Tags


class ArcVerifier:
    """Checks the chain of one message: `feed` the body, then `finish`. Arguments as those of `DkimVerifier`.

    Source: RFC 8617 §5.2.
    """

    def __init__(self, header: bytes | HeaderFields, *, body: BodyHashes | None = None) -> None:
        self._header = header if isinstance(header, HeaderFields) else HeaderFields(header)
        self._shared = body is not None
        self._body = body if body is not None else BodyHashes()
        self._sets: list[_Set] = []
        self._seals: list[Signer] = []
        self._messages: list[Signature | SignatureFault] = []
        self._fault = ""
        try:
            self._sets = _collect(self._header)
            self._seals = [_read_seal(one.seal_tags, number) for number, one in enumerate(self._sets, 1)]
            self._messages = [_read_message(one.message_tags) for one in self._sets]
            if self._messages and isinstance(self._messages[-1], SignatureFault):
                raise self._messages[-1]
        except SignatureFault as fault:
            self._fault = fault.reason
            return
        for message in self._messages:
            if isinstance(message, Signature):
                self._body.want(message.body_form)

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body, of any size.

        Raises:
            LocalProtocolError: the body is shared, or `finish` was called.
        """
        if self._shared:
            raise LocalProtocolError("a shared body is fed by its owner")
        self._body.feed(chunk)

    async def finish(self, resolver: Resolver, *, now_s: float) -> ArcResult:
        """What the chain proves."""
        count = len(self._sets)
        if self._fault:
            return ArcResult(Arc.FAIL, count, reason=self._fault)
        if not count:
            return ArcResult(Arc.NONE)
        # The newest signature before all seals, older ones last: a changed message costs one key, not a hundred.
        reason = await self._check_message(resolver, now_s) or await self._check_seals(resolver)
        if reason:
            return ArcResult(Arc.FAIL, count, reason=reason)
        oldest = await self._oldest_pass(resolver, now_s)
        return ArcResult(
            Arc.PASS,
            count,
            domains=tuple(seal.domain for seal in self._seals),
            oldest_pass=oldest,
            results=tuple(_payload(self._header.value(one.results_place)) for one in self._sets),
        )

    async def _check_message(self, resolver: Resolver, now_s: float) -> str:
        """Why the newest message signature does not pass; "" when it does."""
        message = self._messages[-1]
        if isinstance(message, SignatureFault):
            return message.reason
        records = await fetch_keys(resolver, [message.signer.key_name])
        outcome = self._message_outcome(len(self._messages), message, records, now_s)
        return "" if outcome.result is Dkim.PASS else f"message signature: {outcome.reason}"

    async def _oldest_pass(self, resolver: Resolver, now_s: float) -> int:
        """The first of the message signatures that pass up to the newest, 0 when all do."""
        older = [one for one in self._messages[:-1] if isinstance(one, Signature)]
        records = await fetch_keys(resolver, [one.signer.key_name for one in older])
        for number in range(len(self._messages) - 1, 0, -1):
            if number % CHECKS_PER_SLICE == 0:
                await asyncio.sleep(0)
            message = self._messages[number - 1]
            # RFC 8617 §5.2: the first one that fails ends the search, and does not fail the chain.
            if (
                isinstance(message, SignatureFault)
                or self._message_outcome(number, message, records, now_s).result is not Dkim.PASS
            ):
                return number + 1
        return 0

    def _message_outcome(self, number: int, message: Signature, records: dict[str, Records], now_s: float) -> Outcome:
        place = self._sets[number - 1].message_place
        return check_signature(self._header, place, message, self._body, records[message.signer.key_name], now_s)

    async def _check_seals(self, resolver: Resolver) -> str:
        """Why some seal does not pass, the newest first; "" when all do."""
        records = await fetch_keys(resolver, [seal.key_name for seal in self._seals])
        digests = self._seal_digests()
        for number in range(len(self._seals), 0, -1):
            if number % CHECKS_PER_SLICE == 0:
                await asyncio.sleep(0)
            seal = self._seals[number - 1]
            reason = _check_seal(seal, digests[number - 1], records[seal.key_name])
            if reason:
                return f"seal {number}: {reason}"
        return ""

    def _seal_digests(self) -> list[bytes]:
        """What each seal signs: all sets up to its own, each field hashed once. Source: RFC 8617 §5.1.1."""
        digests: list[bytes] = []
        chain = hashlib.sha256()
        for one in self._sets:
            for place in (one.results_place, one.message_place):
                chain.update(self._header.canonical(place, Canonicalization.RELAXED))
            own = chain.copy()
            own.update(relax_field(without_signature(self._header.field(one.seal_place))).removesuffix(CRLF))
            digests.append(own.digest())
            chain.update(self._header.canonical(one.seal_place, Canonicalization.RELAXED))
        return digests


def _collect(header: HeaderFields) -> list[_Set]:
    """The sets in their order; empty where there is no chain. Source: RFC 8617 §5.2, steps 1 to 3B."""
    if header.is_cut:
        raise syntax_fault("too many header fields")
    results, messages, seals = (header.places(name) for name in (_RESULTS, _MESSAGE, _SEAL))
    count = max(len(results), len(messages), len(seals))
    # RFC 8617 §5.2: more than 50 sets fail.
    if count > MAX_INSTANCES:
        raise syntax_fault("too many instances")
    # RFC 8617 §5.2: each set has one of each field.
    if not len(results) == len(messages) == len(seals):
        raise syntax_fault("incomplete set")
    results_at = {_results_instance(header.value(place)): place for place in results}
    messages_at = {_instance(tags): (place, tags) for place, tags in _tagged(header, messages)}
    seals_at = {_instance(tags): (place, tags) for place, tags in _tagged(header, seals)}
    # RFC 8617 §5.2: instances run from 1 to N, without gaps or repetition.
    numbers = set(range(1, count + 1))
    if not numbers == results_at.keys() == messages_at.keys() == seals_at.keys():
        raise syntax_fault("instances are not continuous")
    return [_Set(results_at[number], *messages_at[number], *seals_at[number]) for number in range(1, count + 1)]


def _tagged(header: HeaderFields, places: list[int]) -> list[tuple[int, Tags]]:
    return [(place, parse_tags(header.value(place), MAX_SIGNATURE_BYTES)) for place in places]


def _instance(tags: Tags) -> int:
    value = tags.get(b"i", b"")
    if not _POSITION.fullmatch(value):
        raise syntax_fault("malformed instance")
    return int(value)


def _results_instance(value: bytes) -> int:
    match = _INSTANCE.match(value)
    if match is None:
        raise syntax_fault("malformed instance")
    return int(match[1])


def _payload(value: bytes) -> str:
    """The results of an instance, on one line, without the instance."""
    match = _INSTANCE.match(value)
    return unfold(value[match.end() if match else 0 :]).decode("utf-8", "replace")


def _read_seal(tags: Tags, number: int) -> Signer:
    require(tags, SEAL_REQUIRED)
    # RFC 8617 §4.1.3: h= in a seal fails the chain.
    if b"h" in tags:
        raise syntax_fault("seal with a list of fields")
    # RFC 8617 §5.2: the first seal says none, every later one pass.
    if tags[b"cv"].lower() != (b"none" if number == 1 else b"pass"):
        raise syntax_fault(f"seal {number}: wrong chain status")
    return read_signer(tags)


def _read_message(tags: Tags) -> Signature | SignatureFault:
    """A broken signature of an older instance only ends `oldest_pass`."""
    try:
        signature = read_signature(tags, is_arc=True)
    except SignatureFault as fault:
        return fault
    # RFC 8617 §4.1.2: fields of the chain are not signed here; a later handler adds more of them.
    if {_RESULTS, _MESSAGE, _SEAL} & set(signature.names):
        return syntax_fault("message signature over the chain")
    return signature


def _check_seal(seal: Signer, digest: bytes, records: Records) -> str:
    if isinstance(records, SignatureFault):
        return records.reason
    reason = "no key for signature"
    for record in records:
        try:
            read_key(record).verify(seal.algorithm, seal.signature, digest)
        except SignatureFault as fault:
            reason = fault.reason
        else:
            return ""
    return reason
