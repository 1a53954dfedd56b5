"""Rows of the queue as people and programs read them; `queue` and `trace` show the same words."""

from typing import TYPE_CHECKING, Final

from pochta.cli.moments import ago, ahead

if TYPE_CHECKING:
    from pochta.store.outbox import Recipient
    from pochta.store.queue_view import Entry, Summary

HERE: Final = "here"  # the destination of mail that is delivered here at a later time
STATES: Final = ("waiting", "sending", "held", "ended")  # by `outbox.State`


def destination(name: str) -> str:
    """What a destination is called."""
    return name or HERE


def state(one: "Recipient") -> str:
    """`waiting`, `sending`, `held`, or `ended`: a report about it is still to be made."""
    return STATES[one.state]


def standing(one: "Recipient") -> str:
    """Where a recipient stands and what comes next: `waiting, next attempt in 4m 12s, 3 attempts so far`."""
    tried = "" if not one.attempts else f", {one.attempts} attempt{'' if one.attempts == 1 else 's'} so far"
    if state(one) == "waiting":
        return f"waiting, next attempt {ahead(one.next_at)}{tried}"
    if state(one) == "sending":
        return f"being sent right now{tried}"
    if state(one) == "held":
        return f"held until `pochta queue release {one.outgoing_id}`{tried}"
    return "ended; its sender is about to be told"


def last_answer(at: int | None, host: str | None, reply: str | None) -> str:
    """What was said at the last attempt, by whom, when; `""` before the first."""
    if reply is None:
        return ""
    when = "" if at is None else f"{ago(at)}, "
    return f"{when}{host}: {reply}" if host else f"{when}{reply}"


def summary_json(one: "Summary") -> dict[str, object]:
    """A destination for programs."""
    return {
        "destination": destination(one.name),
        "waiting": one.waiting,
        "held": one.held,
        "sending": one.claimed,
        "oldest_at": one.oldest_at,
        "next_at": one.next_at,
        "failures": one.failures,
        "last_at": one.last_at,
        "last_host": one.last_host or None,
        "last_reply": one.last_reply,
    }


def recipient_json(one: "Recipient") -> dict[str, object]:
    """A recipient for programs."""
    return {
        "address": one.address,
        "destination": destination(one.destination),
        "state": state(one),
        "attempts": one.attempts,
        "next_at": one.next_at if state(one) == "waiting" else None,
        "last_at": one.last_at,
        "last_host": one.last_host or None,
        "last_reply": one.last_reply,
    }


def entry_json(one: "Entry") -> dict[str, object]:
    """A recipient with its message for programs."""
    message = one.message
    return {
        "id": message.id,
        "sender": message.reverse_path,
        "size_bytes": message.size,
        "created_at": message.created_at,
        **recipient_json(one.recipient),
    }
