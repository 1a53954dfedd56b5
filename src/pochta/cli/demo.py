"""`pochta demo`: a complete server on this machine, with two accounts and sample messages, in one command."""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from pochta.errors import SetupError

if TYPE_CHECKING:
    from pochta.config import Settings

DOMAIN: Final = "demo.example"
HOSTNAME: Final = f"mail.{DOMAIN}"
ACCOUNTS: Final = ((f"alice@{DOMAIN}", "wonderland"), (f"bob@{DOMAIN}", "builder"))
CONFIG_NAME: Final = "pochta.toml"

# Protocol, offset of the port from --base-port, TLS
_PORTS: Final = (
    ("smtp", 25, "starttls"),
    ("submission", 587, "starttls"),
    ("submission", 465, "implicit"),
    ("imap", 143, "starttls"),
    ("imap", 993, "implicit"),
    ("pop3", 110, "starttls"),
    ("pop3", 995, "implicit"),
)
_SHOWN_TLS: Final = {"starttls": "STARTTLS", "implicit": "TLS", "none": "none"}
_SHOWN_NAME: Final = {"smtp": "SMTP", "submission": "submission", "imap": "IMAP", "pop3": "POP3"}


@click.command("demo")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("pochta-demo"), show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The IP address to listen on.")
@click.option("--base-port", type=click.IntRange(1, 64000), default=2000, show_default=True)
@click.pass_context
def command(ctx: click.Context, folder: Path, host: str, base_port: int) -> None:
    """Start a complete server on this machine, to try it out.

    Settings and mail are kept in --dir; the next start goes on from there. Ports are --base-port plus 25, 587, 465,
    143, 993, 110 and 995.
    """
    from pochta import config, supervisor
    from pochta.store import setup

    path = folder / CONFIG_NAME
    if not path.exists():
        _make(path, host, base_port)
    elif any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("host", "base_port")):
        raise SetupError(f"{path}: exists, and its addresses are kept; change them there, or name another --dir")
    settings = config.load(path)
    if settings.hostname != HOSTNAME:
        raise SetupError(f"{path}: is not of a demo; start it with `pochta -c {path} serve`, or name another --dir")

    def prepare() -> None:
        # the ports are open now, so that what is printed can be tried at once
        setup.prepare(settings.data_dir)
        _introduce(settings, folder)

    ctx.exit(supervisor.run(settings, prepare=prepare, finish=partial(setup.finish, settings.data_dir)))


def _make(path: Path, host: str, base_port: int) -> None:
    from pochta import config
    from pochta.net.listen import bind_all
    from pochta.net.tls import write_self_signed
    from pochta.store import setup

    def listener(protocol: str, offset: int, tls: str) -> config.Listener:
        shown = f"[{host}]" if ":" in host else host
        return config.Listener(
            protocol=config.ListenerProtocol(protocol),
            address=f"{shown}:{base_port + offset}",
            tls=config.ListenerTls(tls),
            allow_plaintext_auth=tls == "starttls" and protocol != "smtp" and config.is_loopback(host),
        )

    try:
        listeners = tuple(listener(*port) for port in _PORTS)
    except ValueError:
        raise SetupError(f"--host {host}: is not an IP address; write it as 127.0.0.1 or ::1") from None
    try:
        taken = bind_all(listeners)  # before anything is made: a folder keeps the ports it was made with
    except SetupError as error:
        raise SetupError(f"{error}; or choose others with --base-port") from None
    for one in taken:
        one.socket.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = config.initial_toml(HOSTNAME, ACCOUNTS[0][0], listeners=listeners) + _kept_here(listeners[0].address)
    path.write_text(text, encoding="utf-8")
    try:
        settings = config.load(path, check_files=False)
        setup.create(settings.data_dir)
        write_self_signed(settings.tls.certificate, settings.tls.key, hostname=settings.hostname)
        asyncio.run(_fill(settings))
    except BaseException:
        path.unlink()  # the next start makes everything anew, or says what is in the way
        raise


def _kept_here(smtp_address: str) -> str:
    """Settings by which a trial asks nothing of the world and writes to nobody in it."""
    host, port = smtp_address.rsplit(":", 1)
    relay = host if host.startswith("[") else f"[{host}]"
    return (
        "\n# Mail for others is offered to this server, which refuses it: a trial writes to nobody in the world.\n"
        f'[[route]]\nname = "nowhere"\nhosts = ["{relay}:{port}"]\ntls = "never"\n\n'
        "[checks]\nenabled = false\n"
    )


async def _fill(settings: "Settings") -> None:
    """The accounts, and a handful of messages in the INBOX of each."""
    from pochta import clock
    from pochta.accounts import edit, passwords, signing
    from pochta.cli.demo_messages import MESSAGES
    from pochta.delivery.intake import Intake
    from pochta.log import Secret
    from pochta.store import messages
    from pochta.store.store import Store

    store = Store(settings.data_dir)
    store.start(hears_hints=False)
    try:
        now = int(clock.now_s())
        await store.write(0, edit.add_domain, DOMAIN, None, now, signing.new_keys(now))
        ids = [
            await store.write(0, edit.add_account, address, passwords.hash_password(Secret(password)), 0, now)
            for address, password in ACCOUNTS
        ]
        intake = Intake(store.blobs, memory_limit_bytes=settings.limits.spool_memory_bytes)
        for message in MESSAGES:
            incoming = intake.open()
            incoming.write(message)
            await store.write(ids[0], messages.deliver, tuple(ids), await incoming.finish(now))
    finally:
        await store.close()


def _introduce(settings: "Settings", folder: Path) -> None:
    """Who, with what password, on which ports; one line to send and one to read."""
    from pochta.cli.output import print_table

    (alice, password), (bob, bob_password) = ACCOUNTS
    click.echo(f"Pochta serves {DOMAIN}; everything is kept in {folder}/ and found again at the next start.\n")
    print_table(("address", "password"), [(alice, password), (bob, bob_password)])
    click.echo()
    rows = [
        (
            _SHOWN_NAME.get(one.protocol, one.protocol),
            one.address,
            _SHOWN_TLS[one.tls] + (" or none" if one.allow_plaintext_auth or one.protocol == "smtp" else ""),
        )
        for one in settings.listeners
    ]
    print_table(("protocol", "address", "security"), rows)
    click.echo()
    sending, reading = (
        next((one for one in settings.listeners if one.protocol == protocol), None)
        for protocol in ("submission", "imap")
    )
    if sending is not None:
        options = "" if sending.allow_plaintext_auth else "--ssl-reqd -k "
        click.echo(
            "send:  printf 'Subject: Hello\\r\\n\\r\\nHello, Bob!\\r\\n' |"
            f" curl {options}smtp://{sending.address} -u {alice}:{password} --mail-from {alice} --mail-rcpt {bob} -T -"
        )
    if reading is not None:
        options = "" if reading.allow_plaintext_auth else "--ssl-reqd -k "
        click.echo(f"read:  curl {options}'imap://{reading.address}/INBOX;MAILINDEX=*' -u {bob}:{bob_password}")
        if not reading.allow_plaintext_auth:
            click.echo("\nEverybody who reaches this machine can sign in with these passwords.")
    click.echo("\nCtrl-C ends it.")
