"""The keys of an OpenID Connect issuer: found by discovery, kept for a while, asked for again when they have changed.

Theory of operation. The first token makes us ask for the discovery document and then for the keys it names. They are
good for FRESH_S; afterwards, and when a token names a key that is not among them, they are asked for anew, by one
question at a time however many tokens wait, and never twice within AGAIN_S: tokens that name keys of nobody cost the
issuer one question a minute. While the issuer does not answer, the keys of before are good for STALE_S.

Refuses to know what a token says, and how a document is fetched.

Source: OpenID Connect Discovery 1.0 §4, RFC 7517 §5.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from joserfc import jwk
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from pochta import clock, log
from pochta.errors import TryLater

FRESH_S: Final = 3600.0  # issuers announce a new key hours before they sign with it
STALE_S: Final = 86_400.0  # a day without the issuer: longer, and a key it has withdrawn would be believed too long
AGAIN_S: Final = 60.0
DOCUMENT_BYTES: Final = 256 * 1024  # Google's keys are 1 KiB, Microsoft's 15 KiB with their certificates
MAX_KEYS: Final = 64
MIN_RSA_BASE64: Final = 342  # characters of a modulus of 2048 bits; RFC 7518 §3.3

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"

T = TypeVar("T")


class Fetch(Protocol):
    """How a document is fetched: its octets, or TryLater with the reason for the log."""

    def __call__(self, url: str, *, limit_bytes: int) -> Awaitable[bytes]: ...


class IssuerKey(NamedTuple):
    """A key that the issuer signs with; `kid` and `alg` are empty where it does not say."""

    kid: str
    alg: str
    key: RSAKey | ECKey | OKPKey


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]  # Any: of the issuer's making; each is checked when it is read


class Issuer:
    """One issuer's keys; use it from one event loop."""

    def __init__(self, url: str, fetch: Fetch) -> None:
        self.url = url
        self.configuration_url = url.rstrip("/") + DISCOVERY_PATH
        self._fetch = fetch
        self._keys: tuple[IssuerKey, ...] = ()
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Give up a question under way."""
        if self._asking is not None:
            self._asking.cancel()

    async def keys(self, kid: str) -> tuple[IssuerKey, ...]:
        """The issuer's keys, asked for anew when they are old or `kid` (empty: any) is not among them.

        Raises: TryLater when there are none to go by.
        """
        now = clock.monotonic_s()
        is_old = self._fetched_at is None or now >= self._fetched_at + FRESH_S
        is_known = not kid or any(one.kid == kid for one in self._keys)
        if is_old or not is_known:
            if self._asking is None and (self._asked_at is None or now >= self._asked_at + AGAIN_S):
                self._asked_at = now
                self._asking = asyncio.get_running_loop().create_task(self._ask(), name="issuer keys")
            if self._asking is not None:
                await asyncio.shield(self._asking)  # not cancelled with one of those who wait
        if self._fetched_at is None or clock.monotonic_s() >= self._fetched_at + STALE_S:
            raise TryLater("the identity provider cannot be reached", AGAIN_S)
        return self._keys

    async def _ask(self) -> None:
        try:
            self._keys = await self._read()
            self._fetched_at = clock.monotonic_s()
            log.event("oauth.keys.fetched", issuer=self.url, keys=len(self._keys))
        except TryLater as error:
            log.event("oauth.keys.failed", issuer=self.url, error=error.reason)
        finally:
            self._asking = None

    async def _read(self) -> tuple[IssuerKey, ...]:
        discovery = _decoded(await self._fetch(self.configuration_url, limit_bytes=DOCUMENT_BYTES), _Discovery)
        # OpenID Connect Discovery 1.0 §4.3: the issuer in the document is the one that was asked
        if discovery.issuer != self.url:
            raise TryLater(f"the discovery document is of another issuer, {discovery.issuer}")
        try:
            own, keys = urlsplit(self.url), urlsplit(discovery.jwks_uri)
            _ = keys.port
        except ValueError:
            raise TryLater("its discovery document names no URL of keys") from None
        if keys.scheme != "https" and (keys.scheme, keys.hostname) != (own.scheme, own.hostname):
            raise TryLater(f"its keys are not kept safely, at {discovery.jwks_uri}")
        found = _decoded(await self._fetch(discovery.jwks_uri, limit_bytes=DOCUMENT_BYTES), _KeySet)
        return tuple(key for one in found.keys[:MAX_KEYS] if (key := _key(one)) is not None)


def _decoded(document: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise TryLater("answered something else than was asked for") from None


def _key(values: dict[str, Any]) -> IssuerKey | None:  # Any: see _KeySet
    """The key, where it is one to verify signatures with, and strong enough.

    RFC 7517 §5: those of kinds that we do not know are passed over.
    """
    kid, alg = values.get("kid", ""), values.get("alg", "")
    if values.get("kty") not in ("RSA", "EC", "OKP") or values.get("use", "sig") != "sig":
        return None
    if not isinstance(kid, str) or not isinstance(alg, str):
        return None
    # By the length of what is written: the library would read a weak key with a warning to our standard error.
    if values["kty"] == "RSA" and len(str(values.get("n", ""))) < MIN_RSA_BASE64:
        return None
    try:
        key = jwk.import_key(values)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None  # what others made of it: a key of theirs that we cannot read is no error of ours
    return IssuerKey(kid, alg, key) if isinstance(key, RSAKey | ECKey | OKPKey) else None
