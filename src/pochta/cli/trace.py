"""`pochta trace`: what happened to a message, from the trail that every message leaves in the store."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from pochta.cli import queue_shown
from pochta.cli.arguments import json_option
from pochta.cli.opening import read
from pochta.cli.output import print_json, show_size, show_time
from pochta.errors import Refusal, RefusalCode

if TYPE_CHECKING:
    from pochta.store.queue_view import Entry
    from pochta.store.trails import Step, Trail
    from pochta.store.tx import Tx

_DAY_S: Final = 86_400
_ROLES: Final = {
    "smtp": "from another server",
    "submission": "from a user",
    "lmtp": "from the mail system in front (LMTP)",
    "command": "from the command line",
    "report": "a report, made here",
    "double_bounce": "a report to the postmaster, made here",
}


class Told(NamedTuple):
    """A trail with all that belongs to it. `about`: the message that a report tells of; `reports`: those about it."""

    trail: "Trail"
    facts: dict[str, Any]  # Any: JSON
    steps: "list[Step]"
    entries: "list[Entry]"
    about: "Trail | None"
    reports: "list[Trail]"
    accounts: dict[int, str]


@click.command("trace")
@click.argument("what", metavar="MESSAGE-ID|ADDRESS")
@json_option
@click.pass_context
def command(ctx: click.Context, what: str, as_json: bool) -> None:
    """Tell what happened to messages: by Message-ID, or by an address.

    An address is that of a sender or a recipient. The latest message comes last. Trails are kept for 30 days.
    """
    from pochta.store import trails

    found = read(ctx, _gather, what)
    if not found:
        days = trails.KEPT_S // _DAY_S
        raise Refusal(RefusalCode.NOT_FOUND, f"nothing is known of {what}; trails are kept for {days} days")
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        for line in _lines(one):
            click.echo(_printable(line))


def _gather(tx: "Tx", what: str) -> list[Told]:
    """Every trail, oldest first. About five statements for each."""
    from pochta.delivery import record
    from pochta.store import trails

    plain = what.strip().removeprefix("<").removesuffix(">")
    found = {one.id: one for one in trails.by_message_id(tx, f"<{plain}>"[: record.MESSAGE_ID_MAX])}
    if "@" in plain:
        found |= {one.id: one for one in trails.by_address(tx, record.searched_as(plain))}
    return [_told(tx, found[trail_id]) for trail_id in sorted(found)]


def _told(tx: "Tx", trail: "Trail") -> Told:
    from pochta.delivery import record
    from pochta.store import tracing, trails

    facts = record.decode(trail.facts)
    steps = trails.steps(tx, trail.id)
    about = facts.get("about")
    numbers = {number for one in _list(facts.get("to")) for number in _list(one.get("accounts"))}
    return Told(
        trail,
        facts,
        steps,
        tracing.entries_of_trail(tx, trail.id),
        trails.by_id(tx, about) if isinstance(about, int) else None,
        _reports_about(tx, trail, steps),
        tracing.addresses_of(tx, numbers),
    )


def _reports_about(tx: "Tx", trail: "Trail", steps: "list[Step]") -> "list[Trail]":
    """The reports that were sent about a message: to its sender mostly, or to whom the step names."""
    from pochta.delivery import record
    from pochta.store import trails

    told = [record.decode(one.facts) for one in steps if one.kind == "reported"]
    if not told:
        return []
    found = {one.id: one for one in trails.by_address(tx, record.searched_as(trail.sender))} if trail.sender else {}
    for facts in told:
        if isinstance(message_id := facts.get("message_id"), str):
            found |= {one.id: one for one in trails.by_message_id(tx, message_id)}
    return [found[key] for key in sorted(found) if record.decode(found[key].facts).get("about") == trail.id]


def _list(value: object) -> list[Any]:  # Any: JSON
    return value if isinstance(value, list) else []


def _printable(line: str) -> str:
    """What peers have said may hold anything; a terminal obeys some of it."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _lines(told: Told) -> Iterator[str]:
    """A trail as people read it."""
    trail, facts = told.trail, told.facts
    yield f"{show_time(trail.at)}  {trail.message_id or 'without Message-ID'}"
    yield f"  trail     {trail.name}"
    yield f"  sender    {trail.sender or '<>'}"
    yield f"  received  {', '.join(_received(facts))}"
    checks = facts.get("checks")
    if isinstance(checks, dict):
        yield f"  checks    {', '.join(_checks(checks))}"
        rule = f", by the rule {checks['rule']}" if checks.get("rule") else ""
        yield f"  decision  {checks.get('action', 'none')}{rule}"
    if "refused" in facts:
        yield f"  refused   {facts['refused']}"
    if told.about is not None:
        yield f"  about     {told.about.message_id or told.about.name}, of {show_time(told.about.at)}"
    elif "about" in facts:
        yield "  about     a message whose trail is gone"
    yield from _headed("to", _recipients(told))
    yield from _headed("waits", _waiting(told))
    yield from _headed("then", (line for one in told.steps for line in _step(one)))
    reports = [f"{show_time(one.at)}  {one.message_id}" for one in told.reports]
    yield from _headed("reports", iter(reports))


def _headed(head: str, lines: Iterator[str]) -> Iterator[str]:
    """The lines, the first with its head."""
    for number, line in enumerate(lines):
        yield f"  {'' if number else head:<8}  {line}"


def _received(facts: dict[str, Any]) -> Iterator[str]:  # Any: JSON
    role = facts.get("role")
    yield _ROLES.get(str(role), str(role))
    if "account" in facts:
        yield f"signed in as {facts['account']}"
    if "user" in facts:
        yield f"system user {facts['user']}"
    if "peer" in facts:
        hello, peer = facts.get("hello", "no name given"), f"[{facts['peer']}]"
        yield peer if hello == peer else f"{hello} {peer}"
        yield str(facts.get("tls", "without TLS"))
    if isinstance(size := facts.get("size"), int):
        yield show_size(size)


def _checks(checks: dict[str, Any]) -> Iterator[str]:  # Any: JSON
    def of(name: str, domain: object) -> str:
        return f"{name} {checks.get(name, 'none')}" + (f" ({domain})" if domain else "")

    yield of("spf", checks.get("spf_domain"))
    signatures = [one for one in _list(checks.get("dkim")) if isinstance(one, list) and len(one) == 3]
    for result, domain, selector in signatures:
        yield f"dkim {result}" + (f" ({domain}, key {selector})" if domain else "")
    if not signatures:
        yield "dkim none"
    wish = checks.get("dmarc_wish")
    wants = f", which wants {wish}" if wish in ("quarantine", "reject") else ""
    domain = checks.get("dmarc_domain")
    yield of("dmarc", f"{domain}{wants}" if domain else "")
    yield of("arc", "")
    yield of("iprev", "")


_ENDS: Final = {
    "sent": "taken by another server",
    "failed": "not delivered",
    "expired": "not delivered",
    "deleted": "deleted",
}


def _recipients(told: Told) -> Iterator[str]:
    """Each recipient, and where its mail went."""
    waiting = {one.recipient.address for one in told.entries}
    ended = {one.recipient: _ENDS[one.kind] for one in told.steps if one.kind in _ENDS}
    was_refused = "refused" in told.facts
    for one in _list(told.facts.get("to")):
        address = str(one.get("address"))
        places = [
            f"{one.get('mailbox', 'inbox')} of {told.accounts.get(number, 'an account that is removed')}"
            for number in _list(one.get("accounts"))
        ]
        places += [f"forwarded to {remote}" for remote in _list(one.get("forwarded_to"))]
        if was_refused:
            yield f"{address}: refused"
        elif places:
            yield f"{address}: {', '.join(places)}"
        elif address in waiting:
            yield f"{address}: in the queue"
        else:
            yield f"{address}: {ended.get(address, 'to another server')}"


def _waiting(told: Told) -> Iterator[str]:
    for one in told.entries:
        recipient = one.recipient
        yield f"{recipient.address}: {queue_shown.standing(recipient)} (`pochta queue show {one.message.id}`)"
        answer = queue_shown.last_answer(recipient.last_at, recipient.last_host, recipient.last_reply)
        if answer:
            yield f"  {answer}"


_STEPS: Final = {
    "sent": "sent",
    "deferred": "put off",
    "failed": "failed",
    "expired": "given up",
    "held": "held by the administrator",
    "released": "released by the administrator",
    "deleted": "deleted by the administrator",
    "reported": "its sender was sent a report",
}


def _step(one: "Step") -> Iterator[str]:
    from pochta.delivery import record

    facts = record.decode(one.facts)
    if one.kind == "reported" and facts.get("role") == "double_bounce":
        what = "the postmaster was sent a report"
    else:
        what = _STEPS.get(one.kind, one.kind)
    attempt = f", attempt {facts['attempt']}" if "attempt" in facts and one.kind != "reported" else ""
    yield f"{show_time(one.at)}  {one.recipient or 'all'}: {what}{attempt}"
    host = facts.get("host")
    if reply := facts.get("reply"):
        tls = f" over {facts['tls']}" if facts.get("tls") else " without TLS" if host else ""
        yield f"  {host}{tls}: {reply}" if host else f"  {reply}"


def _as_json(told: Told) -> dict[str, object]:
    trail = told.trail
    facts = {key: value for key, value in told.facts.items() if key not in ("to", "about")}
    return {
        "trail": trail.name,
        "message_id": trail.message_id,
        "sender": trail.sender,
        "at": trail.at,
        **facts,
        "to": [_recipient_json(told, one) for one in _list(told.facts.get("to"))],
        "queue": [{"id": one.message.id, **queue_shown.recipient_json(one.recipient)} for one in told.entries],
        "steps": [_step_json(one) for one in told.steps],
        "about": None if told.about is None else _named(told.about),
        "reports": [_named(one) for one in told.reports],
    }


def _recipient_json(told: Told, one: dict[str, Any]) -> dict[str, object]:  # Any: JSON
    """As kept; the accounts by address, null for one that is removed."""
    found: dict[str, object] = dict(one)
    if "accounts" in one:
        found["accounts"] = [told.accounts.get(number) for number in _list(one["accounts"])]
    return found


def _step_json(one: "Step") -> dict[str, object]:
    from pochta.delivery import record

    return {**record.decode(one.facts), "at": one.at, "kind": one.kind, "recipient": one.recipient}


def _named(trail: "Trail") -> dict[str, object]:
    return {"trail": trail.name, "message_id": trail.message_id, "at": trail.at}
