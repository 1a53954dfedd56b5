"""docs/clients.md against the tests: each program has its row, and each configuration shown is used."""

import re
from pathlib import Path

from interop_programs import PACKAGES, PAGE

HERE = Path(__file__).parent
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = {row[0]: row[1] for row in re.findall(r"^\| (\S+) \| .* \| `(\S+)` \|$", TEXT, re.MULTILINE)}
COMMANDS = {"node", "openssl", "perl", "krb5kdc", "kinit"}  # what others of the table run on


def test_every_program_has_a_row_and_its_test_exists() -> None:
    assert set(PACKAGES) - COMMANDS <= set(ROWS)
    assert {path.name for path in HERE.glob("test_*.py")} == {*ROWS.values(), Path(__file__).name}


def test_every_configuration_shown_is_used() -> None:
    shown = set(re.findall(r"^## (\S+)$", TEXT, re.MULTILINE))
    tests = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py"))
    used = set(re.findall(r'documented\("(\w+)"', tests))
    used |= set(re.findall(r'^_\w+_CALL: Final = \("(\w+)"', tests, re.MULTILINE))
    assert shown == used
