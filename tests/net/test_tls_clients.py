"""Clients' certificates, and what stands for the server's own in channel bindings."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pochta.errors import SetupError
from pochta.net.tls import client_names, end_point, server_context, write_self_signed


def certificate(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, hash_: hashes.HashAlgorithm | None) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.example.org")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    signed = made.sign(key, hash_)  # type: ignore[arg-type]  # the pairs below belong together
    return signed.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.rfc(5929, "4.1")
@pytest.mark.parametrize(
    ("hash_", "name"), [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")]
)
def test_end_point_is_hashed_as_the_certificate_is_signed(hash_: hashes.HashAlgorithm, name: str) -> None:
    pem = certificate(ec.generate_private_key(ec.SECP256R1()), hash_)
    assert end_point(pem) == hashlib.new(name, ssl.PEM_cert_to_DER_cert(pem)).digest()
    assert end_point(pem + certificate(ec.generate_private_key(ec.SECP256R1()), hash_)) == end_point(pem)


def test_no_end_point_where_none_is_defined() -> None:
    assert end_point(certificate(ed25519.Ed25519PrivateKey.generate(), None)) is None
    assert end_point("no certificate") is None


def test_the_context_knows_its_end_point(tmp_path: Path) -> None:
    pair = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_self_signed(*pair, hostname="mail.example.org")
    assert server_context(*pair).end_point == end_point(pair[0].read_text())


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_an_authority_that_is_none(tmp_path: Path, text: str | None) -> None:
    pair = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_self_signed(*pair, hostname="mail.example.org")
    authority = tmp_path / "authority.pem"
    if text is not None:
        authority.write_text(text)
    with pytest.raises(SetupError) as caught:
        server_context(*pair, client_ca=authority)
    assert str(authority) in str(caught.value)
    assert "\n" not in str(caught.value)


class Shown:
    """A connection whose peer has shown this certificate."""

    def __init__(self, certificate: dict[str, object] | None) -> None:
        self._certificate = certificate

    def getpeercert(self) -> dict[str, object] | None:
        return self._certificate


LATER, EARLIER = "Jan  1 00:00:00 2099 GMT", "Jan  1 00:00:00 2020 GMT"
NAMES = (("DNS", "a.example"), ("email", "a@b.example"), ("email", "c@d.example"))


@pytest.mark.parametrize(
    ("certificate", "want"),
    [
        pytest.param(None, (), id="none"),
        pytest.param({}, (), id="not verified"),
        pytest.param({"notAfter": LATER, "subjectAltName": NAMES}, ("a@b.example", "c@d.example"), id="two"),
        pytest.param({"notAfter": EARLIER, "subjectAltName": NAMES}, (), id="of yesterday"),
        pytest.param({"notAfter": LATER}, (), id="no names"),
        pytest.param({"subjectAltName": NAMES}, (), id="no end"),
    ],
)
def test_client_names(certificate: dict[str, object] | None, want: tuple[str, ...]) -> None:
    assert client_names(Shown(certificate)) == want  # type: ignore[arg-type]
    assert client_names(None) == ()
