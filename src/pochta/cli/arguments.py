"""What several commands take: addresses, domains, sizes, passwords; wrong ones are wrong usage (exit code 2)."""

import sys
from collections.abc import Callable
from typing import Any, Final

import click

from pochta.errors import Refusal, SetupError
from pochta.log import Secret

MAX_LINE_CHARS: Final = 4096  # a password has 512 bytes at most; `pochta ... < /dev/zero` must end


class _Checked(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """A text that `check` takes without a Refusal, handed on as `check` returned it."""

    def __init__(self, name: str, check: Callable[[str], Any]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # Any: as in click
        if not isinstance(value, str):
            return value
        try:
            return self._check(value)
        except Refusal as refusal:
            self.fail(refusal.text, param, ctx)


def _address(text: str) -> str:
    from pochta.accounts import edit

    edit.key(text)
    return text


def _domain(text: str) -> str:
    from pochta.accounts import edit

    edit.domain_key(text)
    return text


def _quota(text: str) -> int:
    from pochta.accounts.quota import parse_quota

    return parse_quota(text)


def _number(text: str) -> int:
    from pochta.accounts.quota import parse_number

    return parse_number(text)


def _catch_all(text: str) -> str | None:
    return None if text == "none" else _address(text)


ADDRESS: Final = _Checked("address", _address)
DOMAIN: Final = _Checked("domain", _domain)
QUOTA: Final = _Checked("size", _quota)
NUMBER: Final = _Checked("number", _number)
CATCH_ALL: Final = _Checked("address", _catch_all)

password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def is_at_terminal() -> bool:
    """Whether somebody may be asked; standard input is None where it was closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_password(from_stdin: bool) -> Secret:
    """The password, from standard input or asked for twice.

    Raises:
        click.UsageError: it cannot be a password.
        SetupError: there is nobody to ask.
    """
    from pochta.accounts import passwords

    if from_stdin:
        text = sys.stdin.readline(MAX_LINE_CHARS).rstrip("\r\n") if sys.stdin else ""
    elif not is_at_terminal():
        raise SetupError("there is no terminal to ask for the password at; add --password-stdin")
    else:
        text = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    secret = Secret(text)
    try:
        passwords.check_password(secret)
    except Refusal as refusal:
        raise click.UsageError(refusal.text) from None
    return secret


def confirm(question: str, yes: bool) -> None:
    """Ask a person before something is removed.

    Raises:
        SetupError: there is nobody to ask.
    """
    if yes:
        return
    if not is_at_terminal():
        raise SetupError(f"{question} There is no terminal to ask at; add --yes")
    click.confirm(question, abort=True, err=True)
