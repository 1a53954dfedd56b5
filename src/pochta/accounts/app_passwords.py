"""App passwords: how they are written, what they open, and what is kept of them.

An app password is 28 random letters, shown once as seven groups of four. What is typed may have other dashes, blanks
or capitals; SCRAM, where the client hashes what was typed, takes it as shown and without dashes.

What is kept needs no slow hash: nobody can try 2^128 passwords. Kept are a digest, by which a password is found, and
for each spelling the two keys of SCRAM. All of an account share salt and iteration count, so that one proof can be held
against each. The salt is made of the server's secret and the part before the `@`; so it is there for names that mean
nobody, and no answer tells which do.
"""

import hashlib
import hmac
from enum import StrEnum
from typing import Final, NamedTuple

from pochta import clock
from pochta.accounts import edit
from pochta.errors import Refusal, RefusalCode
from pochta.log import Secret
from pochta.proto import scram
from pochta.store import app_passwords as stored
from pochta.store.app_passwords import AppPassword
from pochta.store.tx import Tx

LETTERS: Final = "abcdefghijkmnpqrstuvwxyz"  # without l and o, which look like i, 1 and 0
LENGTH: Final = 28  # 24^28 = 2^128.4
GROUP: Final = 4
ITERATIONS: Final = scram.MIN_ITERATIONS  # of a random password; every stored key was made with it
SPELLINGS: Final = 2  # as shown, and without dashes

_MAX_TYPED_CHARS: Final = 64  # 28 letters, as many dashes, and some blanks
_SALT_BYTES: Final = 16
# What people and word processors put between groups.
_NOT_MEANT: Final = dict.fromkeys(map(ord, "-\u2010\u2011\u2012\u2013\u2014 \u00a0\t"))
_LETTERS: Final = frozenset(LETTERS)


class Scope(StrEnum):
    """What an app password opens."""

    MAIL = "mail"
    IMAP = "imap"
    POP3 = "pop3"
    SMTP = "smtp"


_MAIL_SERVICES: Final = frozenset({"imap", "pop3", "smtp"})


def covers(scope: str, service: str) -> bool:
    """Whether an app password of this scope opens the service."""
    return scope == service or (scope == Scope.MAIL and service in _MAIL_SERVICES)


def generate() -> Secret:
    """A new app password, as it is shown."""
    number = int.from_bytes(clock.token_bytes(32), "big")  # 2^128 times more than needed: no letter comes more often
    letters = []
    for _ in range(LENGTH):
        number, at = divmod(number, len(LETTERS))
        letters.append(LETTERS[at])
    return Secret(_shown("".join(letters)))


def _shown(letters: str) -> str:
    return "-".join(letters[at : at + GROUP] for at in range(0, LENGTH, GROUP))


def letters_of(typed: Secret) -> Secret | None:
    """The letters of an app password, however typed; None for what cannot be one."""
    text = typed.reveal()
    if not LENGTH <= len(text) <= _MAX_TYPED_CHARS:
        return None
    letters = text.translate(_NOT_MEANT).lower()
    return Secret(letters) if len(letters) == LENGTH and _LETTERS.issuperset(letters) else None


def digest(letters: Secret) -> str:
    """By which an app password is found."""
    return hashlib.sha256(b"app password " + letters.reveal().encode("ascii")).hexdigest()


def salt(server_secret: bytes, local_part: str) -> bytes:
    """The salt of all app passwords of whoever has this local part (as in a key)."""
    text = f"scram salt\0{local_part}".encode("utf-8", "surrogatepass")
    return hmac.digest(server_secret, text, "sha256")[:_SALT_BYTES]


def scram_keys(letters: Secret, salt: bytes) -> tuple[bytes, bytes]:
    """(stored keys, server keys), each for every spelling in a row; blocks for some milliseconds."""
    spellings = (_shown(letters.reveal()), letters.reveal())
    keys = [scram.derive_keys(one.encode("ascii"), salt, ITERATIONS) for one in spellings]
    return b"".join(one.stored_key for one in keys), b"".join(one.server_key for one in keys)


class Made(NamedTuple):
    """What is kept of a new app password."""

    digest: str
    stored_keys: bytes
    server_keys: bytes

    def __repr__(self) -> str:
        return "Made(***)"  # INV-11


def make(server_secret: bytes, local_part: str) -> tuple[Secret, Made]:
    """A new app password, as it is shown once, and what is kept of it; blocks for some milliseconds."""
    shown = generate()
    letters = Secret(shown.reveal().replace("-", ""))
    return shown, Made(digest(letters), *scram_keys(letters, salt(server_secret, local_part)))


def add(tx: Tx, address: str, label: str, scope: str, made: Made, now: int) -> int:
    """The id of a new app password of the account at `address`.

    Raises:
        Refusal: INVALID_NAME (address or label), NO_SUCH_USER, LIMIT.
    """
    account = edit.account(tx, address)
    return stored.add(tx, account.id, checked_label(label), scope, *made, now)


def checked_label(label: str) -> str:
    """The label without blanks around it.

    Raises:
        Refusal: INVALID_NAME.
    """
    label = label.strip()
    if not label or len(label) > stored.MAX_LABEL_CHARS or not label.isprintable():
        text = f"a label is a line of 1 to {stored.MAX_LABEL_CHARS} characters that says what the password is for"
        raise Refusal(RefusalCode.INVALID_NAME, text)
    return label


def listed(tx: Tx, address: str) -> list[AppPassword]:
    """The app passwords of the account at `address`.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER.
    """
    return stored.of_account(tx, edit.account(tx, address).id)


def remove(tx: Tx, address: str, id: int) -> None:
    """Forget an app password; every open connection of the account has to sign in again.

    Raises:
        Refusal: INVALID_NAME, NO_SUCH_USER, NOT_FOUND.
    """
    stored.remove(tx, edit.account(tx, address).id, id)
