"""Bearer tokens of an OpenID Connect issuer: whose account one is for, if it is good.

A token is good when the issuer has signed it with one of its keys and an algorithm that is allowed here, when it names
that issuer and this server as its audience, and when its time has not passed. The account is named by one claim.

Only tokens that are JWTs can be read; for opaque ones the issuer would have to be asked each time.

Source: RFC 7519 §7.2, RFC 8725 §3, RFC 9068 §4, OpenID Connect Core 1.0 §5.1.
"""

from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from typing import Any, Final, TypeGuard

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from pochta import clock
from pochta.accounts.issuer import Issuer, IssuerKey
from pochta.errors import Refusal, RefusalCode

LEEWAY_S: Final = 60  # for clocks that differ; RFC 7519 §4.1.4: no more than a few minutes
MAX_HEADER_BYTES: Final = 4096  # Microsoft's have 150; some carry a certificate

EMAIL: Final = "email"


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""


class TokenVerifier:
    """Reads tokens of one issuer. `scope` is what clients are told to ask for, empty for nothing."""

    def __init__(self, issuer: Issuer, *, audience: str, algorithms: tuple[str, ...], claim: str, scope: str) -> None:
        self.scope = scope
        self.configuration_url = issuer.configuration_url
        self._issuer = issuer
        self._audience = audience
        self._claim = claim
        # Not strict: issuers put names of their own into headers (Microsoft's "nonce"); RFC 7515 §4: ignored
        self._registry = JWSRegistry(algorithms=algorithms, strict_check_header=False)
        self._registry.max_header_length = MAX_HEADER_BYTES
        self._algorithms = frozenset(algorithms)

    def close(self) -> None:
        """Ask nobody any more."""
        self._issuer.close()

    async def keys_for(self, token: str) -> tuple[IssuerKey, ...]:
        """The keys to hold `token` against.

        Raises: TryLater when the issuer cannot be reached.
        """
        header = _header(token)
        # Who asks with nonsense makes nobody ask for keys.
        if header is None or header.alg not in self._algorithms:
            return ()
        return await self._issuer.keys(header.kid)

    def name_in(self, token: str, keys: tuple[IssuerKey, ...]) -> str:
        """The user name that the token is for; some 100 us.

        Raises: Refusal, AUTH_FAILED; the detail is the reason for the log.
        """
        header = _header(token)
        if header is None:
            raise _refused("malformed")
        # RFC 8725 §3.1: the algorithms are ours to choose, never the token's
        if header.alg not in self._algorithms:
            raise _refused("algorithm")
        fitting = [one for one in keys if (not header.kid or one.kid == header.kid) and one.alg in ("", header.alg)]
        if len(fitting) != 1:
            raise _refused("key")
        try:
            claims = jwt.decode(token, fitting[0].key, registry=self._registry).claims
        except (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Whoever made the token chose every octet of its header: all that reading it raises is his doing.
            raise _refused("signature") from None
        self._check(claims)
        return self._name(claims)

    def _check(self, claims: dict[str, Any]) -> None:  # Any: JSON of the issuer's making
        now = clock.now_s()
        if claims.get("iss") != self._issuer.url:
            raise _refused("issuer")
        audience = claims.get("aud")
        # RFC 7519 §4.1.3: one audience, or a list of them
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise _refused("audience")
        expires_at, not_before = claims.get("exp"), claims.get("nbf", 0)
        if not _is_number(expires_at) or not _is_number(not_before):
            raise _refused("malformed")
        if now >= expires_at + LEEWAY_S:
            raise _refused("expired")
        if now < not_before - LEEWAY_S:
            raise _refused("not_yet")
        # RFC 8705 §3, RFC 9449 §7.2: a token with "cnf" is good only with a proof of the key that it names; neither
        # mechanism carries one, and as a bearer's it would let in whoever stole it.
        if "cnf" in claims:
            raise _refused("bound")

    def _name(self, claims: dict[str, Any]) -> str:  # Any: as above
        name = claims.get(self._claim)
        if not isinstance(name, str) or not name:
            raise _refused("claim")
        # OpenID Connect Core 1.0 §5.1: an address that nobody has verified is anybody's, and so is one of which nothing
        # is said: some providers let users write what they like into it. Some write the word as a text.
        if self._claim == EMAIL and claims.get("email_verified") not in (True, "true"):
            raise _refused("email_not_verified")
        return name


def _is_number(value: object) -> TypeGuard[int | float]:
    # NaN and infinity come out of JSON too
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _header(token: str) -> _Header | None:
    """What the token's header says of its signature; None when it cannot be read."""
    part, dot, _ = token.partition(".")
    if not dot or len(part) > MAX_HEADER_BYTES:
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(part + "=" * (-len(part) % 4)), type=_Header)
    except (Base64Error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _refused(reason: str) -> Refusal:
    return Refusal(RefusalCode.AUTH_FAILED, "authentication failed", f"token_{reason}")
