"""Return addresses of forwarded mail: the Sender Rewriting Scheme, there and back.

An alias that points to another domain sends on what strangers wrote. With their return address SPF would fail there,
with ours it passes, and what comes back to ours is handed on to them:

    SRS0=hash=day=domain=local@us               the first to forward
    SRS1=hash=first.example=...@us              whoever forwards that again: `...` is the first one's local part, behind
                                                its `SRS0`; what comes back goes to first.example, by no other way

Decides what such an address says and whether we made it; refuses to know which domains are ours and who may write to
them. Nothing is stored: the address carries what is needed, and a hash that only we can make, so that nobody reaches
strangers through us. There is no RFC; shape, separator, days and SRS1 are those that Mail::SRS (M. Fellows, "The Sender
Rewriting Scheme", 2004) began and everybody reads; the hash concerns its maker only, and ours differs:

* it is base32, not base64: servers and people change the case of addresses, and ours are compared casefolded;
* it covers the day's whole number and not only the two characters of it, which come again every 1024 days.

Case changes on the way are tolerated; whatever else changes is refused. The local part comes back as the other side
returned it, perhaps in other case; the domain always in A-labels.
"""

import base64
import hmac
import re
from typing import Final

from pochta.errors import Refusal, RefusalCode
from pochta.proto.address import MAX_PATH_BYTES, Address, AddressError, fold_local_part, parse_mailbox, to_a_labels

# Mail::SRS and postsrsd take 21 days: 5 of queueing at the next server, and as much at each of three more.
MAX_AGE_DAYS: Final = 21
# Another server of ours may stamp an address before midnight comes here.
MAX_AHEAD_DAYS: Final = 1
# 30 bits. The usual four characters of base64 are 24, and 21 where case is lost. A guess costs a RCPT and is good for
# sending to one address until the day's stamp has expired.
HASH_CHARS: Final = 6

_DAY_S: Final = 86400
_DAYS: Final = 1024  # two characters of base32
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
# Without ASCII, [a-z] takes four other letters, too.
_FLAGS: Final = re.ASCII | re.IGNORECASE | re.DOTALL
# An address literal may hold `=`.
_DOMAIN: Final = r"\[[^\]]*\]|[^=]+"
_OURS0: Final = re.compile(rf"SRS0=([a-z2-7]{{{HASH_CHARS}}})=([a-z2-7]{{2}})=({_DOMAIN})=(.*)", _FLAGS)
_OURS1: Final = re.compile(rf"SRS1=([a-z2-7]{{{HASH_CHARS}}})=({_DOMAIN})=([-+=].*)", _FLAGS)
# Others may begin with another separator, and have hashes and days of their own.
_THEIRS0: Final = re.compile(r"SRS0([-+=][^=]+=[^=]+=[^=]+=.*)", _FLAGS)
_THEIRS1: Final = re.compile(rf"SRS1[-+=][^=]+=({_DOMAIN})=([-+=][^=]+=[^=]+=[^=]+=.*)", _FLAGS)


def forward(secret: bytes, sender: str, local_domain: str, *, now_s: float) -> str:
    """The return address at `local_domain` for mail from `sender` that we send on; `""` and our own stay as they are.

    Its local part may exceed the 64 octets that every server takes.

    Raises:
        AddressError: `sender` is no address.
        Refusal: LIMIT, no path can hold the result; the sender keeps its address or the message stays.
    """
    if not sender:
        return ""
    address = parse_mailbox(sender)
    domain = to_a_labels(address.domain)
    if domain == to_a_labels(local_domain):
        return sender
    if (again := _THEIRS1.fullmatch(address.local_part)) and (first_domain := _a_labels(again[1])):
        # What we were the first to forward has come round: its first form will do.
        is_ours = first_domain == to_a_labels(local_domain)
        local_part = f"SRS0{again[2]}" if is_ours else _srs1(secret, first_domain, again[2])
    elif first := _THEIRS0.fullmatch(address.local_part):
        local_part = _srs1(secret, domain, first[1])
    else:
        day = int(now_s) // _DAY_S
        stamp = _BASE32[day % _DAYS // 32] + _BASE32[day % 32]
        digest = _hash(secret, "SRS0", str(day), domain, address.local_part)
        local_part = f"SRS0={digest}={stamp}={domain}={address.local_part}"
    rewritten = str(Address(local_part, local_domain))
    # DEVIATES RFC 5321 §4.5.3.1.1: 17 octets and a domain in front of a local part exceed 64 soon. Whoever cut them
    # off could answer nobody, so servers take what a path holds (§4.5.3.1.3); to keep the stranger's own address fails
    # SPF for certain.
    if len(rewritten.encode()) > MAX_PATH_BYTES - len("<>"):
        text = "return address too long to be forwarded"
        raise Refusal(RefusalCode.LIMIT, text, f"srs: {len(rewritten.encode())} octets for {sender}")
    return rewritten


def is_rewritten(local_part: str) -> bool:
    """Whether `local_part` (without quoting) has the shape of what `forward` makes; `reverse` says whether we did."""
    return bool(_OURS0.fullmatch(local_part) or _OURS1.fullmatch(local_part))


def reverse(secret: bytes, local_part: str, *, now_s: float) -> str:
    """The address to send to what came for `local_part` (without quoting, as it was received) of ours.

    Raises:
        Refusal: NO_SUCH_USER: we did not make it, or too long ago; `detail` says which.
    """
    if match := _OURS0.fullmatch(local_part):
        digest, stamp, domain, original = match.groups()
        folded = stamp.casefold()
        day = int(now_s) // _DAY_S
        age = (day + MAX_AHEAD_DAYS - _BASE32.index(folded[0]) * 32 - _BASE32.index(folded[1])) % _DAYS - MAX_AHEAD_DAYS
        _check(digest, _hash(secret, "SRS0", str(day - age), domain, original), local_part)
        if age > MAX_AGE_DAYS:
            detail = f"srs: made {age} days ago: {local_part}"
            raise Refusal(RefusalCode.NO_SUCH_USER, "this return address has expired", detail)
        return str(Address(original, domain))
    if match := _OURS1.fullmatch(local_part):
        # Its age is for the first forwarder to judge, who alone can check the stamp.
        digest, domain, rest = match.groups()
        _check(digest, _hash(secret, "SRS1", domain, rest), local_part)
        return str(Address(f"SRS0{rest}", domain))
    raise Refusal(RefusalCode.NO_SUCH_USER, "no such return address", f"srs: not of our making: {local_part}")


def _a_labels(domain: str) -> str | None:
    """The domain that somebody wrote into a local part; None when it is none."""
    try:
        return to_a_labels(domain)
    except AddressError:
        return None


def _srs1(secret: bytes, domain: str, rest: str) -> str:
    return f"SRS1={_hash(secret, 'SRS1', domain, rest)}={domain}={rest}"


def _hash(secret: bytes, *parts: str) -> str:
    # NUL stands in no address, and nothing combines with it.
    folded = "\0".join([fold_local_part(part) for part in parts])
    return base64.b32encode(hmac.digest(secret, folded.encode(), "sha256")).decode("ascii").lower()[:HASH_CHARS]


def _check(given: str, right: str, local_part: str) -> None:
    if not hmac.compare_digest(given.casefold().encode(), right.encode()):
        raise Refusal(RefusalCode.NO_SUCH_USER, "no such return address", f"srs: forged: {local_part}")
