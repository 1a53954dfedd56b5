"""`pochta queue`: mail on its way to other servers, shown and changed.

Changes go through the write lane in steps of a few hundred rows, so that a running server is not held up; what it is
sending at that moment stays as it is, and is told.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from pochta import clock
from pochta.cli import queue_shown as shown
from pochta.cli.arguments import confirm, json_option, yes_option
from pochta.cli.backup import progress_bar
from pochta.cli.moments import ago, ahead, show_span
from pochta.cli.opening import read, with_store
from pochta.cli.output import counted, print_json, print_table, show_size, show_time
from pochta.errors import Refusal, RefusalCode
from pochta.store import outbox, queue_view, tracing, trails
from pochta.store.outbox import State
from pochta.store.queue_view import Change, Entry, Summary
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.store.store import Store

LISTED: Final = 100  # recipients that a list shows unless told otherwise
_BEGIN: Final = (0, -1)
_MAX_ID: Final = (1 << 63) - 1  # what a column of the store holds

Step = Callable[[Tx, int | None, str | None, tuple[int, int], int], Change]
F = TypeVar("F", bound=Callable[..., Any])  # Any: a command takes what its options are


class Choice(NamedTuple):
    """Which recipients are meant: of a message, of a destination, or (both None) all."""

    outgoing_id: int | None
    destination: str | None

    def __str__(self) -> str:
        if self.outgoing_id is not None:
            return f"message {self.outgoing_id}"
        return "the queue" if self.destination is None else shown.destination(self.destination)


class Counts(NamedTuple):
    """Recipients of a choice, by state."""

    waiting: int
    held: int
    sending: int


@click.group("queue", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Mail on its way out: what waits, where for, and why.

    Without a subcommand: a line for each destination.
    """
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("--json belongs behind the subcommand")
        return
    summaries = read(ctx, queue_view.summaries)
    if as_json:
        print_json([shown.summary_json(one) for one in summaries])
        return
    if not summaries:
        click.echo("The queue is empty.")
        return
    heads = ("destination", "waiting", "held", "sending", "oldest", "next attempt", "failures")
    print_table(heads, [_summary_row(one) for one in summaries])
    answers = [
        (shown.destination(one.name), ago(one.last_at), one.last_host or "", one.last_reply)
        for one in summaries
        if one.last_reply is not None and one.last_at is not None
    ]
    if answers:
        click.echo()
        print_table(("destination", "asked", "host", "last reply"), answers)


def _summary_row(one: Summary) -> tuple[str, ...]:
    return (
        shown.destination(one.name),
        str(one.waiting),
        str(one.held),
        str(one.claimed),
        show_span(clock.now_s() - one.oldest_at),
        ahead(one.next_at) if one.next_at is not None and one.waiting else "",
        str(one.failures),
    )


def _destination(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A destination as the store has it."""
    from pochta.proto.address import AddressError, to_a_labels

    if value is None or value.startswith("route:"):
        return value
    if value == shown.HERE:
        return outbox.LOCAL
    try:
        return to_a_labels(value.removesuffix("."))
    except AddressError:
        raise click.BadParameter(
            f'"{value}" is not a destination; `pochta queue` lists them', param=parameter
        ) from None


_destination_option = click.option(
    "--destination", metavar="D", callback=_destination, help="A destination as `pochta queue` names it."
)


@command.command("list")
@_destination_option
@click.option(
    "--limit", type=click.IntRange(1, queue_view.LISTED_MAX), default=LISTED, show_default=True, help="Show so many."
)
@json_option
@click.pass_context
def list_(ctx: click.Context, destination: str | None, limit: int, as_json: bool) -> None:
    """List recipients that mail is on its way to, oldest message first."""
    entries = read(ctx, _listing, destination, limit)
    if as_json:
        print_json([shown.entry_json(one) for one in entries])
        return
    heads = ("id", "age", "size", "sender", "recipient", "state", "tries", "next")
    print_table(heads, [_list_row(one) for one in entries])
    if len(entries) == limit:
        counts = read(ctx, _count, Choice(None, destination))
        if (total := sum(counts)) > limit:
            click.echo(f"the first {limit} of {total}; --limit shows more, `pochta queue` sums them up", err=True)


def _listing(tx: Tx, destination: str | None, limit: int) -> list[Entry]:
    return tracing.as_due(tx, queue_view.listing(tx, destination=destination, limit=limit))


def _list_row(one: Entry) -> tuple[str, ...]:
    message, recipient = one
    return (
        str(message.id),
        show_span(clock.now_s() - message.created_at),
        show_size(message.size),
        message.reverse_path or "<>",
        recipient.address,
        shown.state(recipient),
        str(recipient.attempts),
        ahead(recipient.next_at) if recipient.state is State.WAITING else "",
    )


@command.command("show")
@click.argument("id", type=click.IntRange(1, _MAX_ID))
@json_option
@click.pass_context
def show(ctx: click.Context, id: int, as_json: bool) -> None:
    """Show the message ID: where it comes from, and how far each recipient is."""
    entries, trail = read(ctx, _message, id)
    message = entries[0].message
    if as_json:
        print_json(
            {
                "id": message.id,
                "sender": message.reverse_path,
                "report_to": message.report_to,
                "origin": message.origin,
                "message_id": trail.message_id if trail is not None else None,
                "trail": trail.name if trail is not None else None,
                "size_bytes": message.size,
                "created_at": message.created_at,
                "requires_tls": message.requires_tls,
                "priority": message.priority,
                "deliver_by_at": message.deliver_by_at,
                "recipients": [shown.recipient_json(one.recipient) for one in entries],
            }
        )
        return
    click.echo(f"message     {message.id}, {show_size(message.size)}")
    click.echo(f"sender      {message.reverse_path or '<>'}")
    if message.report_to and message.report_to != message.reverse_path:
        click.echo(f"reports to  {message.report_to}")
    if trail is not None and trail.message_id:
        click.echo(f"message-id  {trail.message_id}")
    click.echo(f"since       {show_time(message.created_at)}, {ago(message.created_at)}")
    if message.requires_tls:
        click.echo("TLS         required all the way (REQUIRETLS)")
    if message.deliver_by_at is not None:
        click.echo(f"deliver by  {show_time(message.deliver_by_at)}, {ahead(message.deliver_by_at)}")
    for one in entries:
        _show_recipient(one)


def _message(tx: Tx, outgoing_id: int) -> tuple[list[Entry], trails.Trail | None]:
    entries = tracing.as_due(tx, queue_view.entries_of(tx, outgoing_id))
    return entries, trails.by_id(tx, entries[0].message.trail_id)


def _show_recipient(one: Entry) -> None:
    recipient = one.recipient
    click.echo(f"\n{recipient.address}")
    click.echo(f"  {shown.standing(recipient)}")
    if recipient.destination != recipient.address.rpartition("@")[2]:
        click.echo(f"  by way of {shown.destination(recipient.destination)}")
    if answer := shown.last_answer(recipient.last_at, recipient.last_host, recipient.last_reply):
        click.echo(f"  {answer}")


def _chosen(function: F) -> F:
    """ID, --destination or --all, handed on as a Choice."""
    for decorate in (
        click.option("--all", "is_all", is_flag=True, help="Everything in the queue."),
        _destination_option,
        click.argument("id", type=click.IntRange(1, _MAX_ID), required=False),
    ):
        function = decorate(function)
    return function


def _choice(id: int | None, destination: str | None, is_all: bool) -> Choice:
    if (id is not None) + (destination is not None) + is_all != 1:
        raise click.UsageError("name one of: the ID of a message, --destination D, --all")
    return Choice(id, destination)


@command.command("retry")
@_chosen
@click.pass_context
def retry(ctx: click.Context, id: int | None, destination: str | None, is_all: bool) -> None:
    """Try waiting mail now; the server forgets that a destination was out of reach."""
    _change(ctx, _choice(id, destination, is_all), (queue_view.retry,), "waiting", "due now", "nothing waits")


@command.command("hold")
@_chosen
@click.pass_context
def hold(ctx: click.Context, id: int | None, destination: str | None, is_all: bool) -> None:
    """Keep waiting mail from being tried until it is released; its sender is told nothing."""
    _change(ctx, _choice(id, destination, is_all), (queue_view.hold,), "waiting", "held", "nothing waits")


@command.command("release")
@_chosen
@click.pass_context
def release(ctx: click.Context, id: int | None, destination: str | None, is_all: bool) -> None:
    """Let held mail go, at once."""
    _change(ctx, _choice(id, destination, is_all), (queue_view.release,), "held", "released", "nothing is held")


@command.command("delete")
@_chosen
@yes_option
@click.pass_context
def delete(ctx: click.Context, id: int | None, destination: str | None, is_all: bool, yes: bool) -> None:
    """Remove waiting and held mail; nobody is told but the trail of the message."""
    choice = _choice(id, destination, is_all)
    counts = read(ctx, _count, choice)  # refused before a person is asked
    if counts.waiting + counts.held:
        what = counted(counts.waiting + counts.held, "recipient")
        confirm(f"Delete {what} of {choice}? Their senders are not told.", yes)
    _change(ctx, choice, (_delete_waiting, _delete_held), "all", "deleted", "nothing waits or is held")


def _delete_waiting(
    tx: Tx, outgoing_id: int | None, destination: str | None, after: tuple[int, int], now: int
) -> Change:
    return queue_view.delete(tx, outgoing_id, destination, State.WAITING, after, now)


def _delete_held(tx: Tx, outgoing_id: int | None, destination: str | None, after: tuple[int, int], now: int) -> Change:
    return queue_view.delete(tx, outgoing_id, destination, State.HELD, after, now)


def _count(tx: Tx, choice: Choice) -> Counts:
    """How many the choice means.

    Raises:
        Refusal: NOT_FOUND, there is no such message.
    """
    if choice.outgoing_id is not None:
        states = [one.recipient.state for one in queue_view.entries_of(tx, choice.outgoing_id)]
        return Counts(*(states.count(one) for one in (State.WAITING, State.HELD, State.CLAIMED)))
    found = [one for one in queue_view.summaries(tx) if choice.destination in (None, one.name)]
    return Counts(sum(one.waiting for one in found), sum(one.held for one in found), sum(one.claimed for one in found))


def _change(
    ctx: click.Context, choice: Choice, steps: tuple[Step, ...], counted_as: str, done: str, nothing: str
) -> None:
    """Take every step until there is no more, and tell what came of it."""

    async def work(store: "Store") -> tuple[int, Counts]:
        before = await store.read(0, _count, choice)
        total = {"waiting": before.waiting, "held": before.held, "all": before.waiting + before.held}[counted_as]
        changed = 0
        with progress_bar() as tell:
            for step in steps:
                after: tuple[int, int] | None = _BEGIN
                while after is not None:
                    change = await _step(store, step, choice, after)
                    changed, after = changed + change.rows, change.last
                    tell("queue", min(changed, total), total)
        try:
            left = await store.read(0, _count, choice)
        except Refusal as error:
            if error.code is not RefusalCode.NOT_FOUND:
                raise
            left = Counts(0, 0, 0)  # the message is gone with its last recipient
        return changed, left

    changed, left = with_store(ctx, work)
    if not changed and not left.sending:
        click.echo(f"{choice}: {nothing}")
        return
    busy = f"; {left.sending} being sent right now, left as {'it is' if left.sending == 1 else 'they are'}"
    click.echo(f"{counted(changed, 'recipient')} {done}{busy if left.sending else ''}")


async def _step(store: "Store", step: Step, choice: Choice, after: tuple[int, int]) -> Change:
    return await store.write(0, step, choice.outgoing_id, choice.destination, after, int(clock.now_s()))
