"""What the trail of a message says: made here when it comes in and when something happens to it, read here to be shown.

The facts are small JSON objects with the fields of `Received` and of the steps; a field without a value is left out.
Whatever comes from a peer is cut to VALUE_MAX characters.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from pochta.proto.address import AddressError, address_key
from pochta.proto.smtp.replies import Reply
from pochta.store.trails import NewTrail, Step

VALUE_MAX: Final = 500  # as a line of the log: a hostile reply must not fill the disk
MESSAGE_ID_MAX: Final = 250  # RFC 5322 §2.1.1: it stands on one line of 998 at most; real ones take under 100

# A stranger's message of two lines may name 1000 recipients of 256 octets, or a large alias 1000 times; of what is
# refused even less is kept, for nobody bounds how much of that comes.
SHOWN_MAX: Final = 100
SHOWN_OF_REFUSED_MAX: Final = 10

Facts = Mapping[str, object]


def encode(facts: Facts) -> str:
    """The facts as JSON, without the fields that are None or empty."""
    return msgspec.json.encode(
        {key: _cut(value) for key, value in facts.items() if value not in (None, "", (), {})}
    ).decode()


def _cut(value: object) -> object:
    """A value that JSON and every backend take: no NUL, no lone surrogate."""
    if isinstance(value, str):
        return value[:VALUE_MAX].replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, (tuple, list)):
        return [_cut(one) for one in value]
    return value


def decode(facts: str) -> dict[str, Any]:  # Any: JSON
    """The facts of a row; empty where the row cannot be read."""
    try:
        found = msgspec.json.decode(facts)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def trail_of(name: str, *, message_id: str, sender: str, recipients: Iterable[str], facts: Facts) -> NewTrail:
    """The trail of a message that comes in. `name` is what its Received field and the reply call it.

    It is found by its sender and the first SHOWN_MAX recipients.
    """
    keys = dict.fromkeys(searched_as(one) for one in (sender, *recipients) if one)
    return NewTrail(name, message_id[:MESSAGE_ID_MAX], sender, tuple(keys)[: SHOWN_MAX + 1], encode(facts))


NO_TRAIL: Final = NewTrail("", "", "", (), "{}")  # of a message that has one already


def searched_as(address: str) -> str:
    """How an address is looked for: without case, its domain in A-labels; as it stands where it is none."""
    try:
        return "@".join(address_key(address))
    except AddressError:
        return address.casefold()


def target_facts(address: str, accounts: tuple[int, ...], remotes: tuple[str, ...], role: str) -> Facts:
    """Where one recipient's mail went: accounts by number with their mailbox, addresses elsewhere."""
    found: dict[str, object] = {"address": address}
    if accounts:
        found |= {"accounts": accounts, "mailbox": role}
    if remotes and remotes != (address,):
        found["forwarded_to"] = remotes[:SHOWN_OF_REFUSED_MAX]
        if len(remotes) > SHOWN_OF_REFUSED_MAX:
            found["forwarded_to_more"] = len(remotes) - SHOWN_OF_REFUSED_MAX
    return found


def with_refusal(facts: str, reply: Reply) -> str:
    """The facts of a message that was refused in the end."""
    return encode({**decode(facts), "refused": f"{reply.code} {reply.enhanced} {reply.text}"})


def step(at: int, kind: str, recipient: str, **facts: object) -> Step:
    """Something that happened to a message."""
    return Step(at, kind, recipient, encode(facts))
