"""`pochta init`: everything a new server needs, in one folder."""

from pathlib import Path
from typing import Final

import click

from pochta.cli.arguments import ADDRESS
from pochta.errors import SetupError

CONFIG_NAME: Final = "pochta.toml"


@click.command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--hostname", required=True, help="The server's full name as the world knows it.")
@click.option("--postmaster", type=ADDRESS, help="Who gets the mail for postmaster.")
def command(folder: Path, hostname: str, postmaster: str | None) -> None:
    """Make a settings file, a data folder and a certificate in DIR.

    Nothing that exists is overwritten. The certificate is self-signed: mail programs warn of it until you name another.
    """
    from pochta import config

    path = folder / CONFIG_NAME
    text = config.initial_toml(hostname, postmaster)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SetupError(f"{path}: exists already; choose another folder") from None
    except OSError as error:
        raise SetupError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        _make_data(path, hostname)
    except SetupError:
        path.unlink()
        raise
    option = f"pochta -c {path}"
    click.echo(f"Made {path}. Next:")
    click.echo(f"  {option} domain add {hostname.partition('.')[2] or hostname}")
    click.echo(f"  {option} account add user@{hostname.partition('.')[2] or hostname}")
    click.echo(f"  {option} serve")


def _make_data(path: Path, hostname: str) -> None:
    from pochta import config
    from pochta.net.tls import write_self_signed
    from pochta.store import setup

    settings = config.load(path, check_files=False)
    try:
        setup.create(settings.data_dir)
    except OSError as error:
        raise SetupError(f"{settings.data_dir}: cannot be made ({error.strerror}); choose another folder") from None
    write_self_signed(settings.tls.certificate, settings.tls.key, hostname=hostname)
