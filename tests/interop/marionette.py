"""A client of Marionette, the protocol by which Mozilla's programs are driven: scripts run inside, with all rights.

Each packet is its length in ASCII, a colon, and JSON: `[0, id, command, parameters]` out, `[1, id, error, result]`
back.
"""

import json
import socket
from itertools import count
from typing import Any, Final, Self

HOST: Final = "127.0.0.1"
MAX_LENGTH_DIGITS: Final = 9  # an answer of 1 GB is a bug of a test


class ScriptFailed(AssertionError):
    """The program answered with an error; the text has its stack."""


class Marionette:
    """One session in the program's own context ("chrome")."""

    def __init__(self, port: int, *, timeout_s: float) -> None:
        self._ids = count(1)
        self._socket = socket.create_connection((HOST, port), timeout=timeout_s)
        self._stream = self._socket.makefile("rb")
        try:
            self._read()  # who it is
            self.command("WebDriver:NewSession", {})
            self.command("WebDriver:SetTimeouts", {"script": round(timeout_s * 1000)})
            self.command("Marionette:SetContext", {"value": "chrome"})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()

    def run(self, script: str, *args: object) -> Any:  # Any: JSON
        """What the body of a function, or the promise it returns, comes to.

        Raises: ScriptFailed.
        """
        asked = {"script": script, "args": list(args), "sandbox": "system", "newSandbox": False}
        return self.command("WebDriver:ExecuteScript", asked)["value"]

    def command(self, name: str, parameters: dict[str, Any]) -> Any:  # Any: JSON
        """Send one command and await its answer."""
        asked = next(self._ids)
        packet = json.dumps([0, asked, name, parameters]).encode()
        self._socket.sendall(b"%d:%b" % (len(packet), packet))
        _, answered, error, result = self._read()
        assert answered == asked
        if error is not None:
            raise ScriptFailed(f"{name}: {error['message']}\n{error['stacktrace']}")
        return result

    def _read(self) -> Any:  # Any: JSON
        digits = b""
        while not digits.endswith(b":"):
            octet = self._stream.read(1)
            assert octet, f"the program hung up after {digits!r}"
            assert len(digits) <= MAX_LENGTH_DIGITS, digits
            digits += octet
        return json.loads(self._stream.read(int(digits[:-1])))
