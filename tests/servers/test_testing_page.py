"""The examples of docs/testing.md do what the page says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pochta.testing import Server

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_fixture(pochta: Server) -> None:
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[0], str(PAGE), "exec"), names)
    run: Callable[[Server], None] = names["test_our_program_sends_mail"]
    run(pochta)


def test_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EXAMPLES[1], str(PAGE), "exec"), {})
    host, *ports, certificate = capsys.readouterr().out.split()
    assert (host, len(set(ports))) == ("127.0.0.1", 8)
    assert certificate.endswith("certificate.pem")
    assert len(EXAMPLES) == 2
