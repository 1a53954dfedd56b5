"""`pochta send`: a message from the command line, taken into the store as if a user had submitted it.

Whoever may open the store may write as anybody of the domains kept here, and nobody else. The server need not run: the
message waits in the queue until it does.
"""

import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from pochta import clock
from pochta.cli.arguments import ADDRESS, json_option
from pochta.cli.opening import settings_of, with_store
from pochta.cli.output import print_json
from pochta.errors import Refusal, RefusalCode, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pochta.config import Settings
    from pochta.delivery.submit import Submitter, Target
    from pochta.proto.address import Address
    from pochta.store.arrivals import Taken
    from pochta.store.store import Store
    from pochta.store.tx import Tx

NAME_BYTES: Final = 6  # of the name of a trail, as for other messages


class Order(NamedTuple):
    """What is to be sent. `sender` None: whom the message's From names. `message` with CRLF."""

    sender: "Address | None"
    recipients: "tuple[Address, ...]"
    message: bytes


class Sent(NamedTuple):
    """What became of it."""

    trail: str
    message_id: str
    targets: "tuple[Target, ...]"
    taken: "Taken"
    places: dict[str, str]  # address elsewhere -> where it queues


@click.command("send")
@click.option("--from", "sender", type=ADDRESS, metavar="A", help="Who sends it; else the `postmaster` setting.")
@click.option("--subject", metavar="S", help="Its subject.")
@click.option(
    "--attach",
    "files",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A file to send with it; may be repeated.",
)
@click.option("--raw", is_flag=True, help="Standard input is the whole message, with its header.")
@json_option
@click.argument("recipients", type=ADDRESS, nargs=-1, required=True, metavar="TO...")
@click.pass_context
def command(
    ctx: click.Context,
    sender: str | None,
    subject: str | None,
    files: tuple[Path, ...],
    raw: bool,
    as_json: bool,
    recipients: tuple[str, ...],
) -> None:
    """Send a message; its text, or all of it, is read from standard input.

    It is taken at once, whether or not the server runs: into mailboxes here, into the queue for others. Date and
    Message-ID are added where they are missing, Bcc is removed.
    """
    settings = settings_of(ctx)
    if raw and (subject is not None or files):
        raise click.UsageError("--raw takes a message as it is; --subject and --attach make one")
    order = _order(settings, sender, subject, files, raw, recipients)
    sent = _submit(ctx, settings, order)
    if as_json:
        print_json({"trail": sent.trail, "message_id": sent.message_id, "recipients": _as_json(sent)})
        return
    click.echo(f"{sent.trail}  {sent.message_id}")
    for one in sent.targets:
        click.echo(f"  {one.address}: {_fate(sent, one)}")


def _order(
    settings: "Settings",
    sender: str | None,
    subject: str | None,
    files: tuple[Path, ...],
    raw: bool,
    recipients: tuple[str, ...],
) -> Order:
    """What was given on the command line and on standard input; read before the owner of the data is acted as."""
    from pochta.cli.compose import check_size, compose, read_attachment, with_crlf
    from pochta.proto.address import parse_mailbox

    limit = settings.limits.message_size_bytes
    to = tuple({one.key: one for one in map(parse_mailbox, recipients)}.values())
    if len(to) > settings.limits.recipients:
        raise Refusal(RefusalCode.LIMIT, f"more than {settings.limits.recipients} recipients (`limits.recipients`)")
    if raw:
        given = None if sender is None else parse_mailbox(sender)
        return Order(given, to, with_crlf(_read_input(limit)))
    if sender is None:
        sender = settings.postmaster
    if sender is None:
        raise click.UsageError("say who sends it with --from; there is no `postmaster` in the settings")
    if subject is not None and not subject.isprintable():
        raise click.BadParameter("a subject is one line of text", param_hint="--subject")
    try:
        text = _read_input(limit).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise click.UsageError("the text is not UTF-8; send it as a file with --attach") from None
    try:
        attachments = [read_attachment(path, limit) for path in files]
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}") from None
    author = parse_mailbox(sender)
    message = compose(
        text, sender=str(author), recipients=[str(one) for one in to], subject=subject, attachments=attachments
    )
    check_size(len(message), limit)
    return Order(author, to, message)


def _read_input(limit: int) -> bytes:
    """Standard input, whole."""
    from pochta.cli.compose import check_size

    if sys.stdin is None:
        return b""
    data = sys.stdin.buffer.read(limit + 1)
    check_size(len(data), limit)
    return data


def _submit(ctx: click.Context, settings: "Settings", order: Order) -> Sent:
    from pochta import transfer

    routes = transfer.routes_of(settings)  # reads passwords, which perhaps only the caller can
    message, authors = _completed(settings, order)
    sender = order.sender or authors[0]

    async def work(store: "Store") -> Sent:
        submitter = await transfer.submitter_of(settings, store, routes)
        await store.read(0, _check_local, (sender, *authors))
        targets = [
            await store.read(0, _resolve, one, settings.postmaster, submitter.srs_secret) for one in order.recipients
        ]
        return await _deliver(settings, store, submitter, str(sender), tuple(targets), message)

    return with_store(ctx, work)


def _resolve(tx: "Tx", address: "Address", postmaster: str | None, srs_secret: bytes) -> "Target":
    """What a recipient stands for; a refusal names it."""
    from pochta.delivery import submit

    try:
        return submit.resolve(tx, address, postmaster, srs_secret, clock.now_s(), True)
    except Refusal as refusal:
        raise Refusal(refusal.code, f"{address}: {refusal.text}", refusal.detail) from None


def _completed(settings: "Settings", order: Order) -> "tuple[bytes, tuple[Address, ...]]":
    """The message with the header that a message needs, and its authors.

    Raises:
        Refusal: TOO_LARGE, the header; POLICY, nobody or somebody doubtful stands in From.
    """
    from pochta.delivery.trace import date_time
    from pochta.mime.submitted import MAX_AUTHORS, SubmittedHeader
    from pochta.proto.address import AddressError, parse_mailbox

    now_s = clock.now_s()
    header = SubmittedHeader(
        date=date_time(now_s),
        message_id=f"<{int(now_s):x}.{clock.token_hex(10)}@{settings.hostname}>",
        author="" if order.sender is None else str(order.sender),
    )
    message = header.feed(order.message) + header.finish()
    if header.is_too_large:
        raise Refusal(RefusalCode.TOO_LARGE, "the header of the message is too large")
    # RFC 5322 §3.6: one From, no more: programs that show the first and programs that show the last would differ
    if header.from_fields != 1 or not header.authors or header.is_ambiguous or len(header.authors) > MAX_AUTHORS:
        raise Refusal(RefusalCode.POLICY, "a message has one From field with an address in it; add it, or --from")
    try:
        return message, tuple(parse_mailbox(one.decode("utf-8")) for one in header.authors)
    except (UnicodeDecodeError, AddressError):
        raise Refusal(RefusalCode.POLICY, "From has an address that is none") from None


def _check_local(tx: "Tx", authors: "tuple[Address, ...]") -> None:
    """Nothing, when the domains of all are kept here.

    Raises:
        Refusal: NO_PERMISSION.
    """
    from pochta.store.directory import has_domain

    for one in authors:
        if not has_domain(tx, one.key[1]):
            raise Refusal(
                RefusalCode.NO_PERMISSION, f"cannot send as {one}: {one.domain} is not kept here (`pochta domain list`)"
            )


async def _deliver(
    settings: "Settings",
    store: "Store",
    submitter: "Submitter",
    sender: str,
    targets: "tuple[Target, ...]",
    message: bytes,
) -> Sent:
    from pochta.delivery import record
    from pochta.delivery.intake import Intake
    from pochta.delivery.submit import Envelope, Origin, domain_of
    from pochta.delivery.trace import date_time

    name = f"{Origin.COMMAND}-{clock.token_hex(NAME_BYTES)}"
    # Return-Path and Received, as all mail has them; RFC 5322 §3.6.7 asks no more of one that no other server sent
    trace = f"Return-Path: <{sender}>\r\nReceived: by {settings.hostname} with local id {name};\r\n\t"
    incoming = Intake(store.blobs, memory_limit_bytes=settings.limits.spool_memory_bytes).open()
    try:
        incoming.write(f"{trace}{date_time(clock.now_s())}\r\n".encode() + message)
        new = await incoming.finish(int(clock.now_s()))
    finally:
        incoming.discard()
    trail = record.trail_of(
        name,
        message_id=incoming.message_id,
        sender=sender,
        recipients=[one.address for one in targets],
        facts={
            "role": Origin.COMMAND.value,
            "user": _user(),
            "size": new.blob.size,
            "to": [record.target_facts(one.address, one.accounts, one.remotes, one.role) for one in targets],
        },
    )
    is_ascii = sender.isascii() and all(one.address.isascii() for one in targets)
    envelope = Envelope(
        origin=Origin.COMMAND,
        reverse_path=sender,
        may_bounce=True,
        body="7bit" if message.isascii() else "8bit",
        is_smtputf8=not (is_ascii and message.partition(b"\r\n\r\n")[0].isascii()),
    )
    taken, _ = await submitter.submit(envelope, targets, new, trail)
    places = {remote: submitter.destination_of(domain_of(remote), sender) for one in targets for remote in one.remotes}
    return Sent(name, incoming.message_id, targets, taken, places)


def _user() -> str:
    """Who typed it; as root, who became root is not told."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _fate(sent: Sent, target: "Target") -> str:
    if target.address in sent.taken.full:
        return "the mailbox is full; the sender gets a report"
    found = ["delivered"] if target.accounts else []
    for remote in target.remotes:
        to = "" if remote == target.address else f"to {remote}, "
        found.append(f"{to}queued for {sent.places[remote]}")
    return "; ".join(found)


def _as_json(sent: Sent) -> "Sequence[dict[str, object]]":
    return [
        {
            "address": one.address,
            "delivered": bool(one.accounts) and one.address not in sent.taken.full,
            "queued": [{"address": remote, "destination": sent.places[remote]} for remote in one.remotes],
        }
        for one in sent.targets
    ]
