"""`pochta restore`: a store made of a backup."""

import os
from pathlib import Path

import click

from pochta.cli.backup import CONFIG_NAME, one_line_errors, progress_bar
from pochta.cli.output import counted
from pochta.errors import SetupError


@click.command("restore")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--to", "target", metavar="NEWDIR", type=click.Path(path_type=Path), help="Instead of data_dir.")
@click.pass_context
def command(ctx: click.Context, folder: Path, target: Path | None) -> None:
    """Make a store of the backup in DIR.

    It goes into data_dir of the settings, or into NEWDIR, which must not hold a store yet; nothing is overwritten. The
    settings that were backed up stand in DIR/pochta.toml; put them in place first. Mail programs notice nothing but
    what came in after the backup and is lost. What waited in the queue is held, for it may have been sent since.
    """
    from pochta import config
    from pochta.store import backup

    user: str | None = None
    if target is None:
        settings = config.load(config.find_config(ctx.find_root().obj), check_files=False)
        target, user = settings.data_dir, settings.user
    with one_line_errors(), progress_bar() as progress:
        manifest = backup.restore(folder, target, owner=_owner(target, user), progress=progress)
    click.echo(f"{target}: {counted(manifest.accounts, 'account')}, {counted(manifest.messages, 'message')}")
    if manifest.held:
        click.echo(
            f"{counted(manifest.held, 'recipient')} of the queue held: look with `pochta queue list`, then"
            " `pochta queue release --all`, or delete"
        )
    if manifest.missing:
        raise click.ClickException(f"{len(manifest.missing)} files of messages were not in the backup; see {folder}")
    if (folder / CONFIG_NAME).exists():
        click.echo(f"The settings it ran with: {folder / CONFIG_NAME}")


def _owner(target: Path, user: str | None) -> tuple[int, int] | None:
    """Whom root gives the store to: the owner of the folder, else the user that the server becomes."""
    import pwd

    if os.geteuid() != 0:
        return None
    if target.exists() and target.stat().st_uid != 0:
        return target.stat().st_uid, target.stat().st_gid
    if user is None:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise SetupError(f"user: there is no system user {user}; make one, or name another in the settings") from error
    return entry.pw_uid, entry.pw_gid
