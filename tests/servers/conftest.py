"""Stores to search."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from search_rig import ITEMS, Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "data")
    yield made
    made.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("search") / "data")
    made.append(*ITEMS)
    made.recent = [(4, 5)]
    yield made
    made.close()
