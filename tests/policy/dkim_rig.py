"""Keys, zones, splits and messages for the tests of DKIM and ARC."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from pochta.dns import Answer, DnsError
from pochta.policy.dkim.keys import SigningKey
from pochta.policy.dkim.verify import DkimVerifier
from pochta.policy.results import DkimResult

NOW_S = 1_600_000_000.0
# RFC 8463, Appendix A.2
BRISBANE = b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
TEST_KEY = (
    b"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/"
    b"J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT"
    b"+l/K4w3QIDAQAB"
)


class Texts:
    """A resolver of TXT records only. None instead of records: no answer. `asked`: the names, in order."""

    def __init__(self, zone: dict[str, bytes | list[bytes] | None]) -> None:
        self._zone = zone
        self.asked: list[str] = []

    async def txt(self, name: str) -> Answer[bytes]:
        self.asked.append(name)
        await asyncio.sleep(0)
        found = self._zone.get(name, [])
        if found is None:
            raise DnsError("no answer")
        records = tuple(found) if isinstance(found, list) else (found,)
        return Answer(records, bool(records))


@cache
def rsa_key() -> SigningKey:
    return SigningKey.generate("rsa-sha256")


@cache
def ed_key() -> SigningKey:
    return SigningKey.generate("ed25519-sha256")


@cache
def rsa_pem() -> bytes:
    """The RSA key as dkimpy wants it."""
    key = load_der_private_key(rsa_key().to_bytes(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def zone() -> dict[str, bytes | list[bytes] | None]:
    return {
        "r._domainkey.example.org": rsa_key().public_record().encode(),
        "e._domainkey.example.org": ed_key().public_record().encode(),
    }


def dnsfunc(records: dict[str, bytes | list[bytes] | None]) -> Callable[..., bytes | None]:
    """The same zone as dkimpy asks it."""

    def answer(name: bytes, timeout: int = 5) -> bytes | None:
        found = records.get(name.decode().rstrip("."))
        return found if isinstance(found, bytes) else None

    return answer


def split(message: bytes) -> tuple[bytes, bytes]:
    """(header with the blank line, body)."""
    head, separator, body = message.partition(b"\r\n\r\n")
    return head + separator, body


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def verify(
    message: bytes,
    records: dict[str, bytes | list[bytes] | None] | Texts | None = None,
    *,
    now_s: float = NOW_S,
    chunks: Iterable[bytes] | None = None,
    **options: int,
) -> tuple[DkimResult, ...]:
    """The results for a whole message, the body fed whole or as `chunks`."""
    header, body = split(message)
    verifier = DkimVerifier(header, **options)
    for chunk in [body] if chunks is None else chunks:
        verifier.feed(chunk)
    texts = records if isinstance(records, Texts) else Texts(zone() if records is None else records)
    return asyncio.run(verifier.finish(texts, now_s=now_s))


def vectors(name: str) -> Path:
    """The folder of published vectors of that name."""
    folder = os.environ.get("POCHTA_CORPUS")
    if not folder:
        pytest.skip("POCHTA_CORPUS names no folder of vectors")
    return Path(folder) / "vectors" / name


def with_crlf(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


MESSAGE = (
    b"Received: from client.example.org [192.0.2.1]\r\n"
    b"\tby mail.example.org; Mon, 23 Nov 2020 10:00:00 +0000\r\n"
    b"From: Joe SixPack <joe@example.org>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner\r\n ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@example.org>\r\n"
    b"\r\n"
    b"Hi. \r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
)
