"""`pochta dns`: which DNS records a domain needs, and whether DNS has them."""

from typing import TYPE_CHECKING, Final

import click

from pochta import clock
from pochta.cli.arguments import DOMAIN, json_option
from pochta.cli.opening import read, settings_of, with_store
from pochta.cli.output import counted, print_json, print_table

if TYPE_CHECKING:
    from pochta.cli.dns_check import Checked
    from pochta.config import Settings
    from pochta.setup_records import Needed
    from pochta.store.dkim_keys import Key
    from pochta.store.store import Store

SHOWN_CHARS: Final = 60  # of what DNS says, in a table; keys have 400


@click.command("dns")
@click.argument("domain", type=DOMAIN)
@click.option("--check", "asks", is_flag=True, help="Ask DNS, and tell which records are missing or different.")
@json_option
@click.pass_context
def command(ctx: click.Context, domain: str, asks: bool, as_json: bool) -> None:
    """Print the DNS records that DOMAIN needs, or compare them with what DNS says.

    They are lines of a zone file. With --check: exit code 1 when a record is not there that mail suffers without; new
    DKIM keys whose record is seen sign from now on.
    """
    from pochta.accounts import edit, signing
    from pochta.cli.dns_check import a_labels
    from pochta.setup_records import records_of, zone_lines
    from pochta.store import dkim_keys

    settings = settings_of(ctx)
    name, hostname = edit.domain_key(domain), a_labels(settings.hostname)
    keys = read(ctx, dkim_keys.of_domain, name)
    records = records_of(name, hostname=hostname, listeners=settings.listeners, keys=map(signing.record, keys))
    if asks:
        checked, activated = _check(ctx, settings, name, hostname, records, keys)
        if as_json:
            print_json({"records": [_as_json(one.needed, one) for one in checked], "activated": activated})
        else:
            _print_checked(checked, activated, domain)
        ctx.exit(0 if all(one.is_fine for one in checked) else 1)
    if as_json:
        print_json({"records": [_as_json(one) for one in records if one.data]})
        return
    for line in zone_lines(name, hostname, records):
        click.echo(line)


def _check(
    ctx: click.Context,
    settings: "Settings",
    domain: str,
    hostname: str,
    records: "tuple[Needed, ...]",
    keys: "tuple[Key, ...]",
) -> "tuple[list[Checked], list[str]]":
    """What DNS says of each record, and the selectors of new keys that sign from now on."""
    from pochta import transfer
    from pochta.cli import dns_check
    from pochta.setup_records import Purpose
    from pochta.store import dkim_keys

    resolver = transfer.resolver_of(settings)
    next_ids = {one.selector: one.id for one in keys if one.state == "next"}

    async def work(store: "Store") -> "tuple[list[Checked], list[str]]":
        checked = await dns_check.check(
            resolver,
            records,
            domain=domain,
            hostname=hostname,
            sends_from=settings.outbound.source_addresses,
            now_s=clock.now_s(),
        )
        seen = [
            one.needed.selector
            for one in checked
            if one.needed.purpose is Purpose.DKIM
            and one.state is dns_check.State.OK
            and one.needed.selector in next_ids
        ]
        ids = [next_ids[one] for one in seen]
        began = await store.write(0, dkim_keys.activate, ids, int(clock.now_s())) if ids else ()
        return checked, [one for one in seen if next_ids[one] in began]

    return with_store(ctx, work)


def _print_checked(checked: "list[Checked]", activated: list[str], domain: str) -> None:
    rows = [
        (
            one.state.value if one.needed.is_required or one.state == "ok" else f"({one.state.value})",
            one.needed.kind,
            one.needed.name,
            _said(one),
        )
        for one in checked
    ]
    print_table(("", "record", "name", "what DNS says"), rows)
    click.echo()
    for selector in activated:
        click.echo(f"The new DKIM key {selector} signs from now on.")
    wrong = sum(not one.is_fine for one in checked)
    advised = sum(one.is_fine and one.state != "ok" for one in checked)
    if not wrong and not advised:
        click.echo("DNS has all records.")
        return
    parts = [f"{counted(wrong, 'record')} to put right" if wrong else "Nothing that mail suffers from"]
    if advised:
        parts.append(f"{advised} in brackets advised")
    click.echo(f"{'; '.join(parts)}. `pochta dns {domain}` prints what DNS should say.")


def _said(one: "Checked") -> str:
    found = (
        ", ".join(_shortened(text) for text in one.found) if one.needed.purpose != "dkim" or one.state != "ok" else ""
    )
    return f"{one.reason}: {found}" if one.reason and found else one.reason or found


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"


def _as_json(needed: "Needed", checked: "Checked | None" = None) -> dict[str, object]:
    found: dict[str, object] = {
        "purpose": needed.purpose.value,
        "name": needed.name,
        "type": needed.kind,
        "data": needed.data or None,
        "required": needed.is_required,
    }
    if needed.text:
        found["text"] = needed.text
    if needed.key_state:
        found |= {"selector": needed.selector, "key": needed.key_state}
    if checked is not None:
        found |= {"state": checked.state.value, "found": list(checked.found), "reason": checked.reason or None}
    return found
