"""The command line: `pochta [-c FILE] COMMAND ...`.

Knows the names of the commands and what an error means to the shell; each command lives in a module of its own that is
imported when it is asked for, so that `pochta --help` stays quick. A new command is one row of `COMMANDS`, a module
with a click command named `command`, and a section in `docs/commands.md`.
Exit codes: 0 done · 1 refused, or to be tried later · 2 wrong usage, settings or environment.
"""

from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from pochta import __version__
from pochta.errors import Corrupt, Refusal, SetupError, TryLater


class Row(NamedTuple):
    """Where a command lives, and its line in `pochta --help` (also the first line of its docstring)."""

    module: str
    help: str


COMMANDS: Final[dict[str, Row]] = {
    "init": Row("pochta.cli.init", "Make a settings file, a data folder and a certificate in DIR."),
    "serve": Row("pochta.cli.serve", "Run the server until it is told to stop."),
    "domain": Row("pochta.cli.domain", "Domains whose mail is kept here."),
    "account": Row("pochta.cli.account", "Accounts: an address, a password, mailboxes."),
    "alias": Row("pochta.cli.alias", "Aliases: addresses that stand for others."),
    "share": Row("pochta.cli.share", "Shared mailboxes: who may do what with whose mail."),
    "queue": Row("pochta.cli.queue", "Mail on its way out: what waits, where for, and why."),
    "trace": Row("pochta.cli.trace", "Tell what happened to messages: by Message-ID, or by an address."),
    "send": Row("pochta.cli.send", "Send a message; its text, or all of it, is read from standard input."),
    "dns": Row("pochta.cli.dns", "Print the DNS records that DOMAIN needs, or compare them with what DNS says."),
    "status": Row("pochta.cli.status", "Show how the running server is doing."),
    "demo": Row("pochta.cli.demo", "Start a complete server on this machine, to try it out."),
    "apply": Row("pochta.cli.apply", "Make domains, accounts, aliases and shares what a file declares."),
    "index": Row("pochta.cli.index", "The text index that SEARCH asks: how it stands, made anew."),
    "check": Row("pochta.cli.check", "Look for contradictions in the store."),
    "backup": Row("pochta.cli.backup", "Put a copy of everything into DIR, which must be new or empty."),
    "restore": Row("pochta.cli.restore", "Make a store of the backup in DIR."),
}

_ERRORS: Final = (SetupError, Refusal, TryLater, Corrupt)  # the others are bugs and keep their traceback


class _Failure(click.ClickException):
    """An error of the taxonomy as one line on standard error."""

    exit_code = 1

    def show(self, file: Any = None) -> None:  # Any: as click declares it
        click.echo(f"pochta: {self.format_message()}", err=True)


class _SetupFailure(_Failure):
    exit_code = 2


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        command = import_module(row.module).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            # click asks its own list of commands, which is empty here
            for near in get_close_matches(name, COMMANDS, n=1):
                ctx.fail(f"No such command '{name}'. Did you mean '{near}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:  # Any: as click declares it
        try:
            return super().invoke(ctx)
        except _ERRORS as error:
            raise (_SetupFailure if isinstance(error, SetupError) else _Failure)(_one_line(str(error))) from error


def _one_line(text: str) -> str:
    """The text with what does not print escaped: a file to apply may hold anything, and the terminal obeys escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="The settings file; else $POCHTA_CONFIG, ./pochta.toml, /etc/pochta/pochta.toml.",
)
@click.version_option(__version__, prog_name="pochta", message="%(prog)s %(version)s")
@click.pass_context
def root(ctx: click.Context, config: str | None) -> None:
    """Pochta, a complete mail system."""
    ctx.obj = config


def main() -> None:
    """Entry point of the `pochta` program."""
    root(prog_name="pochta")


if __name__ == "__main__":
    main()
