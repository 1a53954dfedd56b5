"""Every measure can be started: nothing that it takes from the package has gone or been renamed."""

from importlib import import_module
from pathlib import Path

import pytest

import measure
from measure.figures import Figure
from measure.parts import parts

_MODULES = sorted(path.stem for path in Path(measure.__path__[0]).glob("[a-z]*.py"))


@pytest.mark.parametrize("name", _MODULES)
def test_each_module_finds_what_it_imports(name: str) -> None:
    import_module(f"measure.{name}")


def test_parts_run_on_the_store_as_it_is() -> None:
    figures = parts(repeats=1)
    assert {one.name.split()[0] for one in figures} >= {"parse", "scan", "facts", "encode", "snapshot", "store:"}
    assert all(isinstance(one, Figure) and one.value > 0 for one in figures)
