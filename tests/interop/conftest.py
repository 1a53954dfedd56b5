"""What the tests of other people's programs share: the programs, and a server with TLS that they talk to."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop_programs import PACKAGES, Program

from pochta.testing import Server


@pytest.fixture(scope="session")
def tls_server() -> Iterator[Server]:
    """One server for all tests of a test process; each makes accounts of its own."""
    with Server(with_tls=True) as server:
        yield server


@pytest.fixture
def tool(tmp_path: Path) -> Program:
    """`tool("mbsync")` is that program, with an empty home. Where it is missing, CI fails and other runs skip."""

    def find(name: str) -> None:
        if shutil.which(name) is None:
            missing = f"{name} is missing: apt-get install {PACKAGES[name]}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)

    return Program(home=tmp_path, find=find)
