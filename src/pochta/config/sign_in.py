"""Settings of how users sign in: `[auth]` and `[oauth]`, and what their types cannot say."""

import re
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from pochta.errors import SetupError

# RFC 7518 §3.1, RFC 8037 §3.1: signatures by a pair of keys. A key shared with the issuer (HS256), or none, never do.
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
_SCOPE: Final = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")  # RFC 6749 §3.3


class Auth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How users sign in."""

    scram_sha_256: Annotated[
        bool,
        Meta(
            description="Offer SCRAM-SHA-256. It knows app passwords only, and programs that can do it use it whenever"
            " it is offered: turn it on once their users have app passwords."
        ),
    ] = False
    scram_sha_256_plus: Annotated[
        bool,
        Meta(
            description="With SCRAM-SHA-256, offer it bound to the TLS connection too (tls-server-end-point). A proxy"
            " that ends TLS in front with a certificate of its own makes it fail."
        ),
    ] = False
    keytab: Annotated[
        Path | None,
        Meta(
            description="Kerberos keys of this server (`imap/…`, `smtp/…`, `pop/…`); with it GSSAPI is offered."
            " `anna@EXAMPLE.ORG` signs in as `anna@example.org`. Needs the extra `gssapi`; relative to this file."
        ),
    ] = None


class Oauth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The identity provider (OpenID Connect) whose tokens open accounts, by OAUTHBEARER and XOAUTH2."""

    issuer: Annotated[
        str | None,
        Meta(
            description="Its URL, as it stands in its tokens and in its discovery document, which is asked for at"
            " `/.well-known/openid-configuration` below it."
        ),
    ] = None
    audience: Annotated[
        str | None,
        Meta(
            description="What tokens for this server name as their audience (`aud`). Required with an issuer: without"
            " it, a token given to any other service would open the mailbox."
        ),
    ] = None
    claim: Annotated[
        str,
        Meta(
            description="The claim that names the account, by its address. `email` counts only where"
            " `email_verified` is true. Choose one that users cannot change by themselves."
        ),
    ] = "email"
    algorithms: Annotated[
        tuple[str, ...],
        Meta(description="Signature algorithms that are accepted, whatever a token says. Those of nearly all issuers."),
    ] = ("RS256", "ES256")
    scope: Annotated[
        str | None,
        Meta(description="The scope that programs are told to ask for when their token is no good (RFC 7628 §3.2.2)."),
    ] = None
    ca_file: Annotated[
        Path | None,
        Meta(
            description="PEM file with the certificates to verify the issuer's with, in place of the system's; relative"
            " to this file."
        ),
    ] = None


def check_sign_in(path: Path, auth: Auth, oauth: Oauth) -> None:
    """Raise SetupError for the first setting that cannot be meant: one line with file, key and remedy."""
    if auth.scram_sha_256_plus and not auth.scram_sha_256:
        raise SetupError(f"{path}: auth.scram_sha_256_plus: needs scram_sha_256 = true beside it")
    if oauth.issuer is None:
        if oauth.audience is not None:
            raise SetupError(f"{path}: oauth.audience: needs the issuer beside it")
        return
    if not _is_safe_url(oauth.issuer):
        raise SetupError(
            f'{path}: oauth.issuer: "{oauth.issuer}" is no safe URL; write it as "https://login.example.org/realm"'
        )
    if not oauth.audience:
        raise SetupError(f"{path}: oauth.audience: missing; name the audience (or client) that tokens are made for")
    if not oauth.claim:
        raise SetupError(f'{path}: oauth.claim: empty; the usual one is "email"')
    for one in oauth.algorithms:
        if one not in ALGORITHMS:
            raise SetupError(f'{path}: oauth.algorithms: "{one}" cannot be used; choose among {", ".join(ALGORITHMS)}')
    if not oauth.algorithms:
        raise SetupError(f'{path}: oauth.algorithms: empty; the usual ones are "RS256" and "ES256"')
    if oauth.scope is not None and not _SCOPE.fullmatch(oauth.scope):
        raise SetupError(f'{path}: oauth.scope: "{oauth.scope}" is no scope; write it as "openid email"')


def check_sign_in_files(path: Path, auth: Auth, oauth: Oauth, client_ca: Path | None) -> None:
    """Raise SetupError for a file that cannot be read, and for an extra that is missing."""
    for key, file in (("auth.keytab", auth.keytab), ("oauth.ca_file", oauth.ca_file), ("tls.client_ca", client_ca)):
        try:
            if file is not None:
                file.open("rb").close()
        except OSError as error:
            raise SetupError(
                f"{path}: {key}: {file} cannot be read ({error.strerror}); check its path and permissions"
            ) from None
    if auth.keytab is not None and find_spec("gssapi") is None:
        raise SetupError(f"{path}: auth.keytab: Kerberos needs an extra; install it with `pip install pochta[gssapi]`")


def _is_safe_url(url: str) -> bool:
    """Whether a URL names a host by https, or this machine by http."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or not url.isascii() or not url.isprintable() or parts.query or parts.fragment or parts.username:
        return False
    if parts.scheme == "https":
        return True
    try:
        return parts.scheme == "http" and (host == "localhost" or ip_address(host).is_loopback)
    except ValueError:
        return False
