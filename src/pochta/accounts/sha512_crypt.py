"""The hash that Unix systems keep as `$6$`, in plain Python.

Python's own `crypt` is gone since 3.13, and no package that is kept up brings it compiled. 5000 rounds take about 3 ms,
most of it with the interpreter's lock held.
Source: U. Drepper, "Unix crypt using SHA-256 and SHA-512", version 0.6.
"""

import hashlib
from typing import Final

DEFAULT_ROUNDS: Final = 5000
MIN_ROUNDS: Final = 1000
MAX_SALT_BYTES: Final = 16

_ALPHABET: Final = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Which digest bytes make each group of four characters: (0, 21, 42), then every index one further, turned by one.
_ORDER: Final = tuple(
    ((i % 21) + 21 * (i % 3), (i % 21) + 21 * ((i + 1) % 3), (i % 21) + 21 * ((i + 2) % 3)) for i in range(21)
)
_SCHEDULE: Final = 42  # the six kinds of rounds repeat after 2 * 3 * 7


def checksum(password: bytes, salt: bytes, rounds: int) -> str:
    """The 86 characters after the last `$`. Time grows with `rounds` and with the password's length."""
    p, s, digest = _sequences(password, salt)
    # Every kind of round adds a fixed text before and behind the last digest; computed once for all rounds.
    around = [_around(i, p, s) for i in range(_SCHEDULE)]
    sha512 = hashlib.sha512
    for i in range(rounds):
        front, back, is_digest_first = around[i % _SCHEDULE]
        digest = sha512(digest + back if is_digest_first else front + digest).digest()
    return _encode(digest)


def _sequences(password: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    sha512 = hashlib.sha512
    inner = sha512(password + salt + password).digest()
    start = bytearray(password + salt + _repeat(inner, len(password)))
    bits = len(password)
    while bits:
        start += inner if bits & 1 else password
        bits >>= 1
    digest = sha512(start).digest()
    p = _repeat(sha512(password * len(password)).digest(), len(password))
    s = _repeat(sha512(salt * (16 + digest[0])).digest(), len(salt))
    return p, s, digest


def _repeat(text: bytes, length: int) -> bytes:
    return (text * (length // len(text) + 1))[:length]


def _around(i: int, p: bytes, s: bytes) -> tuple[bytes, bytes, bool]:
    middle = (s if i % 3 else b"") + (p if i % 7 else b"")
    return (b"", middle + p, True) if i % 2 == 0 else (p + middle, b"", False)


def _encode(digest: bytes) -> str:
    out = bytearray()
    for a, b, c in _ORDER:
        value = digest[a] << 16 | digest[b] << 8 | digest[c]
        out += bytes(_ALPHABET[value >> shift & 63] for shift in (0, 6, 12, 18))
    out += bytes((_ALPHABET[digest[63] & 63], _ALPHABET[digest[63] >> 6]))
    return out.decode("ascii")
