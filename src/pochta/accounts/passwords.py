"""Password hashes: made by argon2id, verified in the forms that other systems export.

Decides which forms are known, and bounds the time and memory that a hash from elsewhere may ask for, so that no
imported line can stop the server. Everything here blocks for milliseconds and belongs in a thread (`auth.py`); most of
it releases the interpreter's lock.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import bcrypt
from argon2 import exceptions, low_level

from pochta import clock
from pochta.accounts import saslprep, sha512_crypt
from pochta.errors import Refusal, RefusalCode
from pochta.log import Secret

MAX_PASSWORD_BYTES: Final = 512  # libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE; bounds the work of every scheme
MAX_HASH_CHARS: Final = 512  # the longest known form has about 160

MAX_MEMORY_KIB: Final = 128 * 1024  # of one check; two run at once
MAX_ARGON2_WORK_KIB: Final = 1024 * 1024  # memory times passes: 27 times our own 38 MiB, about 0.7 s
MAX_ARGON2_LANES: Final = 16
MAX_BCRYPT_COST: Final = 15  # 2^15 rounds, about 2 s; 12 is what most systems export
MAX_SHA512_ROUNDS: Final = 1_000_000  # about 0.5 s; 5000 is the default everywhere
MAX_SCRYPT_LANES: Final = 16
MAX_SCRYPT_WORK_KIB: Final = 512 * 1024  # memory times lanes: about 1.5 s; passlib's default is 64 MiB

_BCRYPT_BYTES: Final = 72  # what bcrypt looks at; crypt(3) cuts silently, and exported hashes were made so


@dataclass(frozen=True, slots=True)
class Cost:
    """What one hash by argon2id takes."""

    memory_kib: int = 19 * 1024  # the OWASP password storage sheet's first choice: 25 ms
    passes: int = 2
    lanes: int = 1


DEFAULT_COST: Final = Cost()
_SALT_BYTES: Final = 16  # what the specification of Argon2 recommends for passwords
_DIGEST_BYTES: Final = 32

_ARGON2: Final = re.compile(
    r"\$argon2(id|i)\$v=(?:16|19)\$m=(\d{1,9}),t=(\d{1,6}),p=(\d{1,3})\$[A-Za-z0-9+/]{11,88}\$[A-Za-z0-9+/]{16,88}"
)
_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_SHA512: Final = re.compile(r"\$6\$(?:rounds=(\d{1,9})\$)?([^$:\s]{0,16})\$([./A-Za-z0-9]{86})", re.ASCII)
_SCRYPT: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]{0,88})={0,2}\$([A-Za-z0-9+/]{22,88})={0,2}"
)
# What Dovecot writes before a hash; the hash itself says which it is.
_DOVECOT: Final = re.compile(r"\{(?:ARGON2ID?|BLF-CRYPT|SHA512-CRYPT|CRYPT)\}")

_KNOWN: Final = "argon2id, argon2i ($argon2…), bcrypt ($2b$), sha512-crypt ($6$) and scrypt ($scrypt$) are"

Check = Callable[[bytes], bool]


def hash_password(password: Secret, cost: Cost = DEFAULT_COST) -> str:
    """A new credential for `password`: argon2id, 25 ms at the default cost.

    Raises:
        Refusal: as `check_password`.
    """
    return low_level.hash_secret(
        _prepared(password),
        clock.token_bytes(_SALT_BYTES),
        time_cost=cost.passes,
        memory_cost=cost.memory_kib,
        parallelism=cost.lanes,
        hash_len=_DIGEST_BYTES,
        type=low_level.Type.ID,
    ).decode("ascii")


def check_password(password: Secret) -> None:
    """Refuse what cannot become a password.

    Raises:
        Refusal: INVALID_NAME, it is empty or holds a character that none may have; TOO_LARGE.
    """
    _prepared(password)


def _prepared(password: Secret) -> bytes:
    prepared = saslprep.prepare(password.reveal()).encode("utf-8")
    if not prepared:
        raise Refusal(RefusalCode.INVALID_NAME, "a password cannot be empty")
    if len(prepared) > MAX_PASSWORD_BYTES:
        raise Refusal(RefusalCode.TOO_LARGE, f"a password has at most {MAX_PASSWORD_BYTES} bytes")
    return prepared


def check_hash(text: str) -> str:
    """A hash made elsewhere, as it will be stored: without Dovecot's `{SCHEME}`.

    Raises:
        Refusal: INVALID_NAME when its form is not known, LIMIT when a check would cost too much; the text has no part
            of the hash.
    """
    credential = _DOVECOT.sub("", text.strip(), count=1)
    _check_of(credential)
    return credential


def verify_password(credential: str, password: Secret) -> bool:
    """Whether `credential` was made from `password`; False for the empty credential. Blocks for 3 ms to 2 s.

    Tried as SASLprep writes it, and as it came: other systems hashed the bytes that the client sent.

    Raises:
        Refusal: as `check_hash`.
    """
    given = password.reveal()
    if len(given) > MAX_PASSWORD_BYTES:
        return False
    spellings = [given]
    with suppress(Refusal):  # no password of ours, but it may be one that another system took
        spellings = list(dict.fromkeys((saslprep.prepare(given), given)))
    check = _check_of(credential) if credential else _never
    encoded = [one.encode("utf-8", "surrogatepass") for one in spellings]
    return any(check(one) for one in encoded if len(one) <= MAX_PASSWORD_BYTES)


def _never(password: bytes) -> bool:
    return False


def _check_of(credential: str) -> Check:
    """What tells whether a password fits this hash; its form and cost are checked here."""
    if len(credential) <= MAX_HASH_CHARS:
        for pattern, make in _FORMS:
            if match := pattern.fullmatch(credential):
                return make(match)
    raise Refusal(RefusalCode.INVALID_NAME, f"not a password hash of a known form; {_KNOWN}")


def _too_costly(what: str) -> Refusal:
    return Refusal(RefusalCode.LIMIT, f"this hash costs too much to check: {what}; set a new password instead")


def _argon2(match: re.Match[str]) -> Check:
    memory_kib, passes, lanes = (int(number) for number in match.groups()[1:])
    if memory_kib > MAX_MEMORY_KIB or memory_kib * passes > MAX_ARGON2_WORK_KIB or lanes > MAX_ARGON2_LANES:
        raise _too_costly(
            f"argon2 with m up to {MAX_MEMORY_KIB}, m times t up to {MAX_ARGON2_WORK_KIB}, p up to {MAX_ARGON2_LANES}"
        )
    kind = low_level.Type.ID if match[1] == "id" else low_level.Type.I
    return partial(_fits_argon2, match[0].encode("ascii"), kind)


def _fits_argon2(credential: bytes, kind: low_level.Type, password: bytes) -> bool:
    try:
        return low_level.verify_secret(credential, password, kind)
    except exceptions.VerificationError:
        return False


def _bcrypt(match: re.Match[str]) -> Check:
    if not 4 <= int(match[1]) <= MAX_BCRYPT_COST:
        raise _too_costly(f"bcrypt with a cost of 4 to {MAX_BCRYPT_COST}")
    return partial(_fits_bcrypt, match[0].encode("ascii"))


def _fits_bcrypt(credential: bytes, password: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_BCRYPT_BYTES], credential)
    except ValueError:
        return False  # a salt whose spare bits are set, which no bcrypt writes


def _sha512(match: re.Match[str]) -> Check:
    rounds = sha512_crypt.DEFAULT_ROUNDS if match[1] is None else int(match[1])
    if rounds > MAX_SHA512_ROUNDS:
        raise _too_costly(f"sha512-crypt with up to {MAX_SHA512_ROUNDS} rounds")
    salt = match[2].encode("utf-8")[: sha512_crypt.MAX_SALT_BYTES]
    return partial(_fits_sha512, salt, max(rounds, sha512_crypt.MIN_ROUNDS), match[3])


def _fits_sha512(salt: bytes, rounds: int, checksum: str, password: bytes) -> bool:
    return hmac.compare_digest(sha512_crypt.checksum(password, salt, rounds), checksum)


def _scrypt(match: re.Match[str]) -> Check:
    log_n, r, p = (int(match[group]) for group in (1, 2, 3))
    memory_kib = r << log_n >> 3  # 128 * r * N bytes
    if not (
        log_n > 0
        and r > 0
        and 0 < p <= MAX_SCRYPT_LANES
        and memory_kib <= MAX_MEMORY_KIB
        and memory_kib * p <= MAX_SCRYPT_WORK_KIB
    ):
        raise _too_costly(
            f"scrypt in {MAX_MEMORY_KIB} KiB, {MAX_SCRYPT_WORK_KIB} KiB times p, p up to {MAX_SCRYPT_LANES}"
        )
    try:
        salt, digest = (base64.b64decode(text + "=" * (-len(text) % 4)) for text in (match[4], match[5]))
    except binascii.Error:
        raise Refusal(RefusalCode.INVALID_NAME, "not a scrypt hash: its base64 is damaged") from None
    return partial(_fits_scrypt, (1 << log_n, r, p), salt, digest)


def _fits_scrypt(cost: tuple[int, int, int], salt: bytes, digest: bytes, password: bytes) -> bool:
    n, r, p = cost
    room = 128 * r * (n + p + 2) + (1 << 20)  # what OpenSSL asks for, and 1 MiB
    made = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=room, dklen=len(digest))
    return hmac.compare_digest(made, digest)


_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Check]], ...]] = (
    (_ARGON2, _argon2),
    (_BCRYPT, _bcrypt),
    (_SHA512, _sha512),
    (_SCRYPT, _scrypt),
)
