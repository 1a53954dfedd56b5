"""TLS: the server's context, its renewal while it serves, the self-signed pair a new server starts with, and the memory
of idle connections.

Refuses to know which listener uses what. A private key is written so that only its owner reads it, and never logged.
"""

import asyncio.sslproto
import hashlib
import os
import pwd
import ssl
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from pochta import clock
from pochta.errors import SetupError

SELF_SIGNED_DAYS: Final = (
    825  # the longest life that Apple's mail programs accept of a certificate a user trusts by hand
)
IDLE_BUFFER_BYTES: Final = 16_384  # one TLS record (RFC 8446 §5.1); asyncio's 256 KiB stay allocated while a peer idles

_MEMFD_NAME_CHARS: Final = 60  # characters of at most 4 bytes; memfd_create(2): 249 bytes
_COMMON_NAME_CHARS: Final = 64  # ub-common-name, RFC 5280 appendix A.1; the name itself is in subjectAltName


def write_self_signed(certificate: Path, key: Path, *, hostname: str) -> None:
    """Write a new P-256 key (mode 0600) and a certificate for `hostname` signed by it; folders are made.

    Raises: SetupError when a file stands there already or cannot be written.
    """
    from cryptography import x509  # late: only `init` needs it, and it takes 60 ms to import
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import oid

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, hostname[:_COMMON_NAME_CHARS])])
    try:
        san: x509.GeneralName = x509.IPAddress(ip_address(hostname))
    except ValueError:
        san = x509.DNSName(hostname)
    now = datetime.fromtimestamp(clock.now_s(), UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # peers whose clock is behind
        .not_valid_after(now + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([san]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private_pem = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_new(key, private_pem, 0o600)
    _write_new(certificate, made.public_bytes(pem), 0o644)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The mode is given at creation: no moment at which others could open the key.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise SetupError(f"{path}: exists already; move it away to have a new one made") from None
    except OSError as error:
        raise SetupError(f"{path}: cannot be written ({error.strerror}); check the folder's permissions") from None


class ServerContext(ssl.SSLContext):
    """A server's context, which remembers the certificate it shows."""

    certificate_pem = ""

    @cached_property
    def end_point(self) -> bytes | None:
        """What channel bindings call the certificate; see `end_point`."""
        return end_point(self.certificate_pem)


def server_context(
    certificate: Path, key: Path, *, shown_as: tuple[Path, Path] | None = None, client_ca: Path | None = None
) -> ServerContext:
    """A server's context with this certificate chain and key; TLS 1.2 and above.

    `shown_as`: the files that errors name, where these two are copies of them. `client_ca`: clients are asked for a
    certificate of these; one who shows another is not let in, one who shows none is.
    Raises: SetupError, one line, when a file cannot be read, is not PEM, or the two do not belong together.
    """
    for path in (certificate, key):
        try:
            path.open("rb").close()  # load_cert_chain does not say which of the two it could not open
        except OSError as error:
            raise _unreadable(path, error) from None
    certificate_name, key_name = shown_as or (certificate, key)

    def no_passphrase() -> str:
        # Without a callback OpenSSL would ask on the terminal, and a service would wait there for ever.
        raise SetupError(f"tls.key: {key_name} is locked by a passphrase; remove it with `openssl pkey`")

    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    # RFC 8996 §4, §5: TLS 1.0 and 1.1 are not negotiated. RFC 8314 §4.1 asks mail servers for 1.2 or above.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
            raise SetupError(
                f"tls.key: {key_name} is not the key of {certificate_name}; name the pair that belongs together"
            ) from None
        raise SetupError(
            f"tls.certificate, tls.key: {certificate_name}, {key_name}: not certificate and key in PEM"
            f" ({error.reason or 'unreadable'}); check both files"
        ) from None
    context.certificate_pem = certificate.read_text("latin-1")
    if client_ca is not None:
        _ask_for_certificates(context, client_ca)
    return context


def _ask_for_certificates(context: ssl.SSLContext, client_ca: Path) -> None:
    try:
        context.load_verify_locations(client_ca)
    except OSError as error:  # SSLError is one
        if isinstance(error, ssl.SSLError):
            raise SetupError(f"tls.client_ca: {client_ca} holds no certificates in PEM; check the file") from None
        raise _unreadable(client_ca, error) from None
    # Optional: passwords go on to work. OpenSSL wants certificates for clients (RFC 5280 §4.2.1.12) by itself.
    context.verify_mode = ssl.CERT_OPTIONAL


def end_point(pem: str) -> bytes | None:
    """The tls-server-end-point of the first certificate in a PEM file: a hash of it, by the hash it is signed with.

    None for signatures without a hash of their own (Ed25519), for which nothing is defined.
    Source: RFC 5929 §4.1.
    """
    from cryptography import x509  # late, as above
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        found = x509.load_pem_x509_certificate(pem.encode("latin-1"))
        algorithm = found.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm):
        return None  # OpenSSL has read it, and this library cannot
    if algorithm is None:
        return None
    # RFC 5929 §4.1: SHA-256 in place of MD5 and SHA-1
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return hashlib.new(name, found.public_bytes(serialization.Encoding.DER)).digest()


def client_names(tls: ssl.SSLObject | None) -> tuple[str, ...]:
    """The mail addresses in the certificate that a client has shown and OpenSSL has verified.

    A session that is resumed keeps its certificate, whose time may have passed meanwhile: then there are none.
    Source: RFC 5280 §4.2.1.6 (rfc822Name).
    """
    shown = None if tls is None else tls.getpeercert()
    if not shown:
        return ()
    not_after = shown.get("notAfter")
    if not isinstance(not_after, str) or clock.now_s() >= ssl.cert_time_to_seconds(not_after):
        return ()
    names = shown.get("subjectAltName", ())
    # A name without domain would be anybody's who has that local part here
    return tuple(
        one[1] for one in names if isinstance(one, tuple) and len(one) == 2 and one[0] == "email" and "@" in str(one[1])
    )


def _unreadable(path: Path, error: OSError) -> SetupError:
    if isinstance(error, PermissionError):
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = f"user {os.geteuid()}"
        return SetupError(
            f"{path}: cannot be read ({error.strerror}); the server runs as {user}: let it read the file,"
            f" for instance by `setfacl -m u:{user}:r`, and enter the folders above it"
        )
    return SetupError(f"{path}: cannot be read ({error.strerror}); check its path and permissions")


class LiveContext:
    """A server's context whose certificate is renewed while it serves.

    `context` is what listeners and STARTTLS are given, for good. Each handshake asks it for a server name, also when
    the peer sends none, and is handed on to the context of the newest pair. The outer one is never loaded anew: a pair
    of another kind of key would not replace the first but stand beside it, and half a pair would be left after an
    error. Connections past their handshake, and tickets of sessions to be resumed, stay as they are.
    """

    __slots__ = ("_client_ca", "_newest", "context")

    def __init__(self, certificate: Path, key: Path, *, client_ca: Path | None = None) -> None:
        """Raises: SetupError, as `server_context`."""
        self._client_ca = client_ca
        self._newest = server_context(certificate, key, client_ca=client_ca)
        self.context = server_context(certificate, key, client_ca=client_ca)
        self.context.sni_callback = self._hand_on

    def _hand_on(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        handshake.context = self._newest

    def use(self, certificate: Path, key: Path) -> None:
        """Handshakes that begin from now on show this pair.

        Raises: SetupError, as `server_context`; the pair before stays.
        """
        self._newest = server_context(certificate, key, client_ca=self._client_ca)


def copy_pair(certificate: Path, key: Path) -> tuple[int, int]:
    """Descriptors of copies in memory, which no later change of the files reaches; the holder closes them.

    Raises: SetupError when a file cannot be read.
    """
    made: list[int] = []
    try:
        for path in (certificate, key):
            fd = os.memfd_create(f"pochta {path.name}"[:_MEMFD_NAME_CHARS], os.MFD_CLOEXEC)
            made.append(fd)
            with open(fd, "wb", closefd=False) as copy:
                copy.write(path.read_bytes())
    except OSError as error:
        for fd in made:
            os.close(fd)
        raise _unreadable(path, error) from None
    return made[0], made[1]


class WatchedPair:
    """Copies in memory of a certificate and key that belong together, taken anew when their files have changed.

    Whoever renews them replaces two files, one after the other: what does not match is refused, the copies before stay,
    and the next change of either file is looked at again.
    """

    __slots__ = ("_files", "_seen", "fds", "number")

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises: SetupError, as `server_context`."""
        self._files = certificate, key
        self._seen = self._state()
        self.fds = self._copies()
        self.number = 0  # rises with each pair that was taken

    def take_if_changed(self) -> bool:
        """Whether the files have changed since the last look, and were taken. Two system calls when not.

        Raises: SetupError when they have changed and cannot be used; once for each change.
        """
        if self._state() == self._seen:
            return False
        self.take()
        return True

    def take(self) -> None:
        """Copy the files as they are now. Raises: SetupError; the copies before stay."""
        self._seen = self._state()  # before they are read: what changes meanwhile is seen by the next look
        before, self.fds = self.fds, self._copies()
        self.number += 1
        for fd in before:
            os.close(fd)

    def close(self) -> None:
        """Forget the copies."""
        for fd in self.fds:
            os.close(fd)
        self.fds = -1, -1

    def _copies(self) -> tuple[int, int]:
        fds = copy_pair(*self._files)
        try:
            server_context(descriptor_path(fds[0]), descriptor_path(fds[1]), shown_as=self._files)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def _state(self) -> tuple[tuple[int, ...] | None, ...]:
        """What tells one state of the files from another; the change time also tells of permissions that were given."""
        return tuple(_file_state(path) for path in self._files)


def _file_state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()  # follows links: certbot's point to the newest file
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def descriptor_path(fd: int) -> Path:
    """Where this process, or one that inherits the descriptor, opens its file anew."""
    return Path(f"/proc/self/fd/{fd}")


def lower_idle_memory() -> bool:
    """Lower what asyncio's TLS keeps per idle connection from 278 to 37 KiB; False where asyncio has no such buffer."""
    protocol = asyncio.sslproto.SSLProtocol
    before = getattr(protocol, "max_size", None)
    if not isinstance(before, int) or before < IDLE_BUFFER_BYTES:
        return False
    protocol.max_size = IDLE_BUFFER_BYTES
    return True
