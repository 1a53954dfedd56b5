"""The pytest plugin that ships with Pochta: the fixture `pochta`, a whole server inside the test's process.

It is function-scoped: free ports and a fresh store for each test. See `docs/testing.md`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pochta.testing.server import Server


@pytest.fixture
def pochta() -> "Iterator[Server]":
    """A running server with the domain `example.org` and the account `anna@example.org`, password `secret`."""
    from pochta.testing.server import Server  # late: a test run that never asks for the server does not pay for it

    with Server() as server:
        server.add_account("anna@example.org", "secret")
        yield server
