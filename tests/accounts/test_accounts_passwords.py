"""Hashes of our own and of other systems: published vectors, bounds, spellings of a password."""

import pytest
from accounts_harness import CHEAP

from pochta.accounts import passwords, saslprep, sha512_crypt
from pochta.accounts.passwords import check_hash, hash_password, verify_password
from pochta.errors import Refusal, RefusalCode
from pochta.log import Secret

# Drepper's test table, version 0.6 of his text.
SHA512_VECTORS = [
    (
        "Hello world!",
        "saltstring",
        5000,
        "svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    (
        "Hello world!",
        "saltstringsaltst",
        10000,
        "OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        "This is just a test",
        "toolongsaltstrin",
        5000,
        "lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0",
    ),
    (
        "a very much longer text to encrypt.  This one even stretches over morethan one line.",
        "anotherlongsalts",
        1400,
        "POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1",
    ),
    (
        "we have a short salt string but not a short password",
        "short",
        77777,
        "WuQyW2YR.hBNpjjRhpYD/ifIw05xdfeEyQoMxIXbkvr0gge1a1x3yRULJ5CCaUeOxFmtlcGZelFl5CxtgfiAc0",
    ),
    (
        "a short string",
        "asaltof16chars..",
        123456,
        "BtCwjqMJGx5hrJhZywWvt0RLE8uZ4oPwcelCjmw2kSYu.Ec6ycULevoBK25fs2xXgMNrCzIMVcgEJAstJeonj1",
    ),
    (
        "the minimum number is still observed",
        "roundstoolow",
        1000,
        "kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xhLsPuWGsUSklZt58jaTfF4ZEQpyUNGc0dqbpBYYBaHHrsX.",
    ),
]

# (password, hash): passlib's and the libraries' own documented examples
IMPORTED = {
    "argon2id": ("password", "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"),
    "argon2i": ("password", "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf+YFY4NeBbtA"),
    "bcrypt 2a": ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
    "bcrypt 2b": ("Kk4DQuMMfZL9o", "$2b$04$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm"),
    "bcrypt 2y": ("U*U*", "$2y$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
    "sha512-crypt": (
        "Hello world!",
        "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
    ),
    # the third vector of the specification of scrypt, cut to 32 bytes, in passlib's form
    "scrypt": (
        "pleaseletmein",
        "$scrypt$ln=14,r=8,p=1$U29kaXVtQ2hsb3JpZGU$cCO9yzr9c0hGHAbNgf046/2o+7qQT44+qbVD9lRdofI",
    ),
}


@pytest.mark.parametrize(("password", "salt", "rounds", "checksum"), SHA512_VECTORS)
def test_sha512_crypt_vectors(password: str, salt: str, rounds: int, checksum: str) -> None:
    assert sha512_crypt.checksum(password.encode(), salt.encode(), rounds) == checksum


@pytest.mark.parametrize("name", IMPORTED)
def test_imported_hash_verifies_its_password_alone(name: str) -> None:
    password, credential = IMPORTED[name]
    assert check_hash(credential) == credential
    assert verify_password(credential, Secret(password))
    assert not verify_password(credential, Secret(password + "x"))


def test_few_rounds_are_raised_to_the_minimum() -> None:
    password, salt, _, checksum = SHA512_VECTORS[-1]
    assert verify_password(f"$6$rounds=10${salt}${checksum}", Secret(password))


def test_bcrypt_cuts_at_72_bytes_as_elsewhere() -> None:
    # jBCrypt's and crypt_blowfish's vector: what stands behind 72 bytes does not count
    credential = "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui"
    text = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored"
    assert verify_password(credential, Secret(text))


@pytest.mark.parametrize(
    "prefix", ["{ARGON2ID}", "{CRYPT}", "{BLF-CRYPT}", "{SHA512-CRYPT}"], ids=lambda prefix: prefix.strip("{}")
)
def test_dovecots_prefix_is_dropped(prefix: str) -> None:
    credential = IMPORTED["sha512-crypt"][1]
    assert check_hash(f" {prefix}{credential}\n") == credential


SALT = "c29tZXNhbHQ"
DIGEST = "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"


@pytest.mark.parametrize(
    "credential",
    [
        f"$argon2id$v=19$m=2097152,t=1,p=4${SALT}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=17,p=1${SALT}${DIGEST}",
        f"$argon2id$v=19$m=1024,t=1,p=17${SALT}${DIGEST}",
        "$2b$16$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm",
        "$2b$03$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm",
        f"$6$rounds=1000001$salt${SHA512_VECTORS[0][3]}",
        f"$scrypt$ln=18,r=8,p=1${SALT}${DIGEST}",
        f"$scrypt$ln=99,r=999,p=1${SALT}${DIGEST}",
        f"$scrypt$ln=16,r=8,p=16${SALT}${DIGEST}",
        f"$scrypt$ln=16,r=8,p=0${SALT}${DIGEST}",
    ],
)
def test_costly_hash_is_refused_at_import(credential: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_hash(credential)
    assert caught.value.code is RefusalCode.LIMIT
    assert DIGEST not in caught.value.text


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "plain",
        "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
        "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
        "$6$salt$short",
        "$6$a:b$" + SHA512_VECTORS[0][3],
        f"$argon2d$v=19$m=65536,t=2,p=1${SALT}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=2,p=1${SALT}${DIGEST}\n$",
        "$2b$04$short",
        "$scrypt$ln=14,r=8,p=1$c29tZ$" + DIGEST,
        "$6$salt$" + "x" * 10_000,
        "$6$rounds=٥٠٠٠$salt$" + SHA512_VECTORS[0][3],
    ],
)
def test_unknown_hash_is_refused(credential: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_hash(credential)
    assert caught.value.code is RefusalCode.INVALID_NAME


@pytest.mark.parametrize(
    "password", ["secret", "п" * 200, "🦊🦊🦊", " ", "a" * 512], ids=["ascii", "long", "emoji", "space", "512"]
)
def test_own_hash(password: str) -> None:
    credential = hash_password(Secret(password), CHEAP)
    assert credential.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert check_hash(credential) == credential
    assert verify_password(credential, Secret(password))
    assert not verify_password(credential, Secret(password[:-1]))
    assert hash_password(Secret(password), CHEAP) != credential


def test_default_cost_is_what_the_documents_say() -> None:
    assert hash_password(Secret("x")).startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("password", ["", "\u00ad", "a\nb", "a\ud800", "\u0627\u0031", "п" * 257])
def test_what_cannot_become_a_password(password: str) -> None:
    with pytest.raises(Refusal):
        hash_password(Secret(password), CHEAP)


def test_empty_credential_takes_no_password() -> None:
    assert not verify_password("", Secret(""))
    assert not verify_password("", Secret("x"))


@pytest.mark.rfc(4013, "2.2")
def test_spellings_of_one_password_are_one() -> None:
    credential = hash_password(Secret("пароль й"), CHEAP)
    assert verify_password(credential, Secret("пароль\u00a0и\u0306"))


def test_imported_hash_of_unprepared_bytes_verifies() -> None:
    # A system without SASLprep hashed what the client sent: here a decomposed letter, and a control character.
    for text in ("и\u0306", "tab\there"):
        credential = "$6$salt$" + sha512_crypt.checksum(text.encode(), b"salt", 5000)
        assert verify_password(credential, Secret(text))


def test_overlong_password_never_fits() -> None:
    credential = hash_password(Secret("a" * 512), CHEAP)
    assert not verify_password(credential, Secret("a" * passwords.MAX_PASSWORD_BYTES + "a"))


@pytest.mark.rfc(4013, "3")
@pytest.mark.parametrize(
    ("text", "prepared"),
    [("I\u00adX", "IX"), ("user", "user"), ("USER", "USER"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u3000b", "a b")],
)
def test_saslprep_examples(text: str, prepared: str) -> None:
    assert saslprep.prepare(text) == prepared


@pytest.mark.rfc(4013, "2.3")
@pytest.mark.parametrize(
    "text", ["\u0007", "\u0627\u0031", "\x7f", "\ue000", "\ufffe", "\ufffd", "\u200e", "\U000e0041", "\u0627a\u0627"]
)
def test_saslprep_refuses(text: str) -> None:
    with pytest.raises(Refusal):
        saslprep.prepare(text)
