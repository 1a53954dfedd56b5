"""One small document by HTTPS: the only place that asks web servers.

The standard library's client in a thread of its own, because this happens a few times a day: a client library for
asyncio would be the largest dependency of the server. What it lacks is done here: a bound on the size, a deadline for
all of it, no redirects (who answers is whom we asked), no proxies from the environment.

The deadline ends the connection, so that a server that drips holds the thread no longer than that. Looking up the name
and connecting end by bounds of their own: the system's, and the deadline once more for each address.
"""

import asyncio
import http.client
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pochta import clock
from pochta.errors import SetupError, TryLater

TIMEOUT_S: Final = 10.0  # for all of one document; identity providers answer within one
READ_BYTES: Final = 16 * 1024
RETRY_S: Final = 60.0


class Fetcher:
    """Asks web servers, one at a time. `ca_file`: whose certificates are believed in place of the system's."""

    def __init__(self, ca_file: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        """Raises: SetupError when `ca_file` cannot be used."""
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        try:
            self._tls = ssl.create_default_context(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise SetupError(f"{ca_file}: cannot be read as certificates in PEM; check the file") from None

    def close(self) -> None:
        """Ask nobody any more; a question under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def get(self, url: str, *, limit_bytes: int) -> bytes:
        """The document at an http or https URL.

        Raises: TryLater, whatever the reason; it is for the log.
        """
        question = _Question(url, limit_bytes, self._timeout_s, self._tls)
        work = asyncio.get_running_loop().run_in_executor(self._thread, question.ask)
        try:
            return await asyncio.wait_for(work, self._timeout_s)
        except TimeoutError:
            raise TryLater(f"no answer within {self._timeout_s:g} s", RETRY_S) from None
        finally:
            question.end()


class _Question:
    """One document asked for in a thread; another thread may `end` it at any time."""

    def __init__(self, url: str, limit_bytes: int, timeout_s: float, tls: ssl.SSLContext) -> None:
        self._url = url
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._tls = tls
        self._until_s = clock.monotonic_s() + timeout_s
        self._connection: socket.socket | None = None
        self._is_over = False

    def end(self) -> None:
        """Let whatever reads from the server, or will, read its end."""
        self._is_over = True
        if self._connection is not None:
            with suppress(OSError):  # closed already
                # not the method of TLS, which takes its state away from under the thread that reads
                socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def ask(self) -> bytes:
        """The document.

        Raises: TryLater.
        """
        client: http.client.HTTPConnection | None = None
        try:
            parts = urlsplit(self._url)
            client = self._client(parts)
            client.connect()
            # first noted, then looked: whichever of the two threads comes second sees what the other did
            self._connection = client.sock
            if self._is_over:
                raise TimeoutError("connected too slowly")
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            client.request("GET", path, headers={"Accept": "application/json", "User-Agent": "Pochta"})
            with client.getresponse() as response:
                if response.status != http.client.OK:
                    raise TryLater(f"answered {response.status}", RETRY_S)
                return _read(response, self._limit_bytes, self._until_s)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of what a URL may hold
            raise TryLater(str(error) or type(error).__name__, RETRY_S) from None
        finally:
            if client is not None:
                client.close()

    def _client(self, parts: SplitResult) -> http.client.HTTPConnection:
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._timeout_s)


def _read(response: http.client.HTTPResponse, limit_bytes: int, until_s: float) -> bytes:
    parts: list[bytes] = []
    left = limit_bytes
    while part := response.read1(READ_BYTES):
        left -= len(part)
        if left < 0:
            raise TryLater(f"answered more than {limit_bytes} bytes", RETRY_S)
        if clock.monotonic_s() > until_s:
            raise TryLater("answered too slowly", RETRY_S)
        parts.append(part)
    return b"".join(parts)
