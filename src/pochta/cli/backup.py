"""`pochta backup`: everything of the server in one folder, while it runs or not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from pochta.errors import SetupError

CONFIG_NAME: Final = "pochta.toml"  # the settings' name in a backup, whatever it was
CERTIFICATE_NAME: Final = "tls/certificate.pem"
KEY_NAME: Final = "tls/key.pem"

Progress = Callable[[str, int, int], None]


@click.command("backup")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_context
def command(ctx: click.Context, folder: Path) -> None:
    """Put a copy of everything into DIR, which must be new or empty.

    The server may run meanwhile: what it has acknowledged before is in the copy. DIR holds the store, the settings and
    the certificate with its key; `pochta restore DIR` makes a store of it. On the data folder's own file system large
    messages take no room, so bring DIR to another disk afterwards.
    """
    from pochta import config
    from pochta.cli.output import counted, show_size
    from pochta.store import backup

    path = config.find_config(ctx.find_root().obj)
    settings = config.load(path, check_files=False)
    files = {CONFIG_NAME: path}
    if settings.tls.certificate.exists() and settings.tls.key.exists():
        files |= {CERTIFICATE_NAME: settings.tls.certificate, KEY_NAME: settings.tls.key}
    with one_line_errors(), progress_bar() as progress:
        manifest = backup.backup(settings.data_dir, folder, files=files, progress=progress)
    size = show_size(manifest.database_bytes + manifest.blob_bytes)
    click.echo(f"{folder}: {counted(manifest.accounts, 'account')}, {counted(manifest.messages, 'message')}, {size}")
    if manifest.missing:
        raise click.ClickException(
            f"{len(manifest.missing)} files of messages are gone from the store, the rest is saved; run `pochta check`"
        )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Tell what the file system refuses in one line.

    Raises:
        SetupError: instead of every OSError and every failure of SQLite to write.
    """
    import apsw

    try:
        yield
    except OSError as error:
        raise SetupError(f"{error.filename or 'the disk'}: {error.strerror}; nothing was left behind") from error
    except (apsw.FullError, apsw.IOError) as error:
        raise SetupError(f"the disk is full or failing ({error}); nothing was left behind") from error


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on standard error, when that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal) as bars:
        tasks = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield show
