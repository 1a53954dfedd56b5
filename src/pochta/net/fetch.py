"""One small document by HTTPS: the only place that asks web servers.

The standard library's client in a thread of its own, because this happens a few times a day: a client library for
asyncio would be the largest dependency of the server. What it lacks is done here: a bound on the size, a deadline for
all of it, no redirects (who answers is whom we asked), no proxies from the environment.

The deadline is kept between two reads; looking up the name and connecting have their own. Whoever asks is answered at
the deadline all the same.
"""

import asyncio
import http.client
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

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
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._get, url, limit_bytes)
        try:
            return await asyncio.wait_for(work, self._timeout_s)
        except TimeoutError:
            raise TryLater(f"no answer within {self._timeout_s:g} s", RETRY_S) from None

    def _get(self, url: str, limit_bytes: int) -> bytes:
        parts = urlsplit(url)
        until_s = clock.monotonic_s() + self._timeout_s
        host, port = parts.hostname or "", parts.port
        client = (
            http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        )
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            client.request("GET", path, headers={"Accept": "application/json", "User-Agent": "Pochta"})
            with client.getresponse() as response:
                if response.status != http.client.OK:
                    raise TryLater(f"answered {response.status}", RETRY_S)
                return _read(response, limit_bytes, until_s)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of what a URL may hold
            raise TryLater(str(error) or type(error).__name__, RETRY_S) from None
        finally:
            client.close()


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
