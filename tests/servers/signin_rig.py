"""What the tests of signing in share: an identity provider on loopback, certificates, a client for each protocol."""

import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import oid
from joserfc import jwt
from joserfc.jwk import ECKey, Key, RSAKey

from pochta.testing import Server

ANNA, BORIS, PASSWORD = "anna@example.org", "boris@example.org", "secret"
AUDIENCE = "mail"
ANSWER_S = 20.0  # a bound for a server that never answers
KEY = ECKey.generate_key("P-256", {"kid": "one"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})


class Issuer:
    """An identity provider: its two documents, and the tokens that it signs. `asked` are the paths it was asked for."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, path: str = "/realm") -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                status, document = issuer.answer(self.path)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", issuer.url + "/keys")
                self.send_header("Content-Length", str(len(document)))
                self.end_headers()
                self.wfile.write(document)

            def log_message(self, format: str, *args: Any) -> None:  # Any: as the base has it
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._server.server_address[1]}{path}"
        self.keys: list[Key] = [KEY, RSA]
        self.asked: list[str] = []
        self.documents: dict[str, tuple[int, bytes]] = {}
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and document."""
        if path in self.documents:
            return self.documents[path]
        if path == "/realm/.well-known/openid-configuration":
            return 200, json.dumps({"issuer": self.url, "jwks_uri": self.url + "/keys", "other": [1]}).encode()
        if path == "/realm/keys":
            public = [one.as_dict(private=False) for one in self.keys]
            return 200, json.dumps({"keys": [*public, {"kty": "new"}, {"kty": "RSA", "n": "?"}]}).encode()
        return 404, b"{}"

    def token(self, *, key: Key = KEY, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token for anna; a claim that is None is left out."""
        now = int(time.time())
        said = {"iss": self.url, "aud": AUDIENCE, "exp": now + 300, "iat": now, "email": ANNA, "email_verified": True}
        said |= claims
        alg = "RS256" if isinstance(key, RSAKey) else "ES256"
        kid = {"kid": key.kid} if key.kid else {}
        head = {"alg": alg, **kid, **(header or {})}
        body = {name: one for name, one in said.items() if one is not None}
        return jwt.encode(head, body, key, algorithms=["RS256", "PS256", "ES256"])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Answer(NamedTuple):
    """What came of an exchange: the challenges, decoded, and the line that ended it."""

    challenges: list[bytes]
    end: str

    @property
    def is_yes(self) -> bool:
        """Whether somebody is signed in."""
        return self.end.startswith(("t OK", "235", "+OK"))


class Client:
    """One connection, greeted and ready to sign in."""

    def __init__(self, server: Server, port: int, tls: ssl.SSLContext | None) -> None:
        self.socket = socket.create_connection((server.host, port), timeout=ANSWER_S)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.socket.close()

    def say(self, line: str) -> None:
        self.socket.sendall(line.encode() + b"\r\n")

    def line(self) -> str:
        return self.file.readline().decode().removesuffix("\r\n")

    def mechanisms(self) -> list[str]:
        """Those that are advertised."""
        raise NotImplementedError

    def _open(self, mechanism: str, initial: str) -> str:
        raise NotImplementedError

    def auth(self, mechanism: str, *responses: bytes | Callable[[bytes], bytes] | None, initial: bool = True) -> Answer:
        """One exchange; a response may be made of the challenge, None cancels."""
        waiting = list(responses)
        first = waiting.pop(0) if initial and waiting and isinstance(waiting[0], bytes) else None
        assert first is None or isinstance(first, bytes)
        encoded = "" if first is None else " " + (base64.b64encode(first).decode() or "=")
        self.say(self._open(mechanism, encoded))
        challenges: list[bytes] = []
        while (line := self.line()).startswith(("+ ", "334 ")):
            challenges.append(base64.b64decode(line.partition(" ")[2]))
            response = waiting.pop(0)
            made = response(challenges[-1]) if callable(response) else response
            self.say("*" if made is None else base64.b64encode(made).decode())
        assert not waiting, line
        return Answer(challenges, line)


class Imap(Client):
    """IMAP."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(server, server.imap_port if tls is None else server.imaps_port, tls)
        assert self.line().startswith("* OK ")

    def ask(self, command: str) -> list[str]:
        """The lines of the answer to one command."""
        self.say(f"t {command}")
        lines = [self.line()]
        while not lines[-1].startswith("t "):
            assert lines[-1], lines
            lines.append(self.line())
        return lines

    def mechanisms(self) -> list[str]:
        return [word[5:] for word in self.ask("CAPABILITY")[0].split() if word.startswith("AUTH=")]

    def _open(self, mechanism: str, initial: str) -> str:
        return f"t AUTHENTICATE {mechanism}{initial}"


class Submission(Client):
    """SMTP, on the port of users."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(server, server.submission_port if tls is None else server.submissions_port, tls)
        assert self.line().startswith("220 ")
        self._words = self.mechanisms()

    def mechanisms(self) -> list[str]:
        self.say("EHLO client.example")
        words: list[str] = []
        while not (line := self.line()).startswith("250 "):
            if line.startswith("250-AUTH "):
                words = line.split()[1:]
        return words

    def _open(self, mechanism: str, initial: str) -> str:
        return f"AUTH {mechanism}{initial}"


class Pop(Client):
    """POP3."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(server, server.pop3_port if tls is None else server.pop3s_port, tls)
        assert self.line().startswith("+OK ")

    def mechanisms(self) -> list[str]:
        self.say("CAPA")
        words: list[str] = []
        while (line := self.line()) != ".":
            if line.startswith("SASL "):
                words = line.split()[1:]
        return words

    def _open(self, mechanism: str, initial: str) -> str:
        return f"AUTH {mechanism}{initial}"


CLIENTS: tuple[type[Imap] | type[Submission] | type[Pop], ...] = (Imap, Submission, Pop)


class Authority:
    """Who gives certificates to users, and to the issuer."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        made = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 30) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
        )

    def pair(self, name: str, *emails: str, days: int = 30, host: str = "") -> tuple[Path, Path]:
        """Files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: Iterable[x509.GeneralName] = [x509.RFC822Name(one) for one in emails]
        if host:
            names = [x509.IPAddress(ip_address(host))]
        subject = x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])
        made = self._builder(subject, key, days).add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        pem = serialization.Encoding.PEM
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(pem))
        key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return certificate, key_file


def trusting(server: Server, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """The TLS of a client that knows the server, and may show a certificate of its own."""
    context = ssl.create_default_context(cafile=server.certificate)
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def oauthbearer(token: str, user: str = ANNA) -> bytes:
    """A client's message, as RFC 7628 §4.1 has it."""
    return f"n,{f'a={user}' if user else ''},\1host=localhost\1port=143\1auth=Bearer {token}\1\1".encode()


def xoauth2(token: str, user: str = ANNA) -> bytes:
    """A client's message, as Google describes it."""
    return f"user={user}\1auth=Bearer {token}\1\1".encode()
