"""Thunderbird without a screen, in a profile of its own, driven by `thunderbird.js`."""

import base64
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from interop_sides import PASSWORD, Account
from marionette import Marionette
from mta_rig import free_port, missing, wait_until

from pochta.testing import Server

TIMEOUT_S: Final = 60.0
_SENT: Final = re.compile(r":SendData: (.*)")
_SCRIPT: Final = (Path(__file__).parent / "thunderbird.js").read_text(encoding="utf-8")
_ARGUMENTS: Final = ("--headless", "--no-remote", "--marionette", "--remote-allow-system-access")
_PREFERENCES: Final = {
    "app.update.enabled": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "mail.biff.show_alert": False,
    "mail.chat.enabled": False,
    "mail.provider.enabled": False,
    "mail.rights.version": 1,
    "mail.shell.checkDefaultClient": False,
    "mail.spotlight.firstRunDone": True,
    "mail.winsearch.firstRunDone": True,
    "mailnews.start_page.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "network.manage-offline-status": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
}


class Thunderbird:
    """A running one, with one account."""

    def __init__(self, marionette: Marionette, log: Path) -> None:
        self._marionette = marionette
        self._log = log

    def ask(self, action: str, **asked: object) -> Any:  # Any: JSON
        """What an action of `thunderbird.js` comes to."""
        return self._marionette.run(f"{_SCRIPT}\nreturn run(...arguments);", action, asked)

    def await_idle(self, mailbox: str) -> None:
        """Return once the last that it sent on the mailbox's connection is IDLE; it waits two seconds before that."""
        wait_until(lambda: self._last(mailbox).endswith(" IDLE"), lambda: self._last(mailbox))

    def sent(self) -> list[str]:
        """The lines it sent, without those of the sign-in."""
        return _SENT.findall(self.said())

    def _last(self, mailbox: str) -> str:
        return ["", *re.findall(rf":S-{mailbox}:SendData: (.*)", self.said())][-1]

    def said(self) -> str:
        """Its own log of the wire so far, both ways."""
        return "".join(path.read_text("latin-1") for path in sorted(self._log.parent.glob(f"{self._log.name}*")))


def _profile(folder: Path, port: int, preferences: dict[str, object]) -> Path:
    profile = folder / "profile"
    profile.mkdir()
    wanted = {**_PREFERENCES, "marionette.port": port, **preferences}
    lines = [f'user_pref("{name}", {_literal(value)});\n' for name, value in wanted.items()]
    (profile / "user.js").write_text("".join(lines), "utf-8")
    return profile


def _literal(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


@contextmanager
def thunderbird(folder: Path, server: Server, account: Account, **preferences: object) -> Iterator[Thunderbird]:
    """Thunderbird with the account added; it ends with the block."""
    if shutil.which("thunderbird") is None:
        missing("thunderbird is missing: apt-get install thunderbird")
    port, log = free_port(), folder / "imap.log"
    profile = _profile(folder, port, preferences)
    environment = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "MOZ_HEADLESS": "1",
        "MOZ_LOG": "IMAP:5,sync,timestamp",
        "MOZ_LOG_FILE": str(log),
    }
    argv = ["thunderbird", *_ARGUMENTS, "--profile", str(profile)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(argv, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        ready = profile / "MarionetteActivePort"
        wait_until(
            lambda: process.poll() is not None or ready.exists(),
            lambda: "Thunderbird did not start: " + (folder / "output").read_text(errors="replace"),
        )
        assert process.poll() is None, (folder / "output").read_text(errors="replace")
        with Marionette(port, timeout_s=TIMEOUT_S) as marionette:
            started = Thunderbird(marionette, log)
            _add_account(started, server, account)
            yield started
            marionette.command("Marionette:Quit", {"flags": ["eForceQuit"]})
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
        process.wait()


def _add_account(started: Thunderbird, server: Server, account: Account) -> None:
    der = ssl.PEM_cert_to_DER_cert(server.certificate.read_text("ascii"))
    ports = [server.imaps_port, server.submissions_port]
    started.ask("trust", host="localhost", ports=ports, certificate=base64.b64encode(der).decode())
    started.ask(
        "addAccount",
        host="localhost",
        imapsPort=server.imaps_port,
        submissionsPort=server.submissions_port,
        user=account.address,
        password=PASSWORD,
    )
