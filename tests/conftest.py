"""What every test run keeps to: in CI a skip or an xfail is a failure unless tests/waivers.toml names it."""

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No example is late by the clock: a busy machine is no failure
settings.register_profile("pochta", deadline=None)
settings.load_profile("pochta")

WAIVERS = tomllib.loads((Path(__file__).parent / "waivers.toml").read_text(encoding="utf-8"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long runs out unless they are asked for."""
    if config.getoption("markexpr"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a skip or an xfail into a failure where CI runs."""
    report: pytest.TestReport = yield
    if os.environ.get("CI") and report.skipped and item.nodeid not in WAIVERS:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped or is expected to fail, and tests/waivers.toml does not name it"
    return report
