"""docs/conformance.md and what it is made of: sections that code and tests cite, requirements and what shows them."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[1]


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up, and one tool imports the other
    spec.loader.exec_module(module)
    return module


requirements: Final = load_tool("requirements")
conformance: Final = load_tool("conformance")


@cache
def cited() -> Any:  # Any: the tool is loaded by its path
    return conformance.cited()


@pytest.fixture
def texts() -> Path:
    try:
        folder: Path = conformance.texts()
    except FileNotFoundError as error:
        pytest.skip(str(error))  # a clone by itself passes its tests; CI has the texts, and takes a skip for a failure
    return folder


def test_conformance_page_is_current() -> None:
    listed, _ = requirements.read(ROOT)
    assert conformance.PAGE.read_text(encoding="utf-8") == conformance.page(cited(), listed)


def test_cited_sections_exist(texts: Path) -> None:
    wrong, unknown = conformance.check_sections(cited(), texts)
    assert wrong == []
    assert len(unknown) < 75, "nearly nothing was looked up"


@pytest.mark.parametrize("rfc", requirements.LISTED)
def test_every_requirement_is_listed(rfc: int, texts: Path) -> None:
    listed, _ = requirements.read(ROOT)
    text = (texts / f"rfc{rfc}.txt").read_text(encoding="utf-8", errors="replace")
    assert requirements.check_words(rfc, listed.get(rfc, []), text) == []


@pytest.mark.parametrize("rfc", requirements.LISTED)
def test_what_binds_a_server_is_shown(rfc: int) -> None:
    listed, _ = requirements.read(ROOT)
    assert requirements.check_entries(rfc, listed.get(rfc, []), ROOT) == []


def test_files_of_requirements_are_of_the_form() -> None:
    assert requirements.read(ROOT)[1] == []


def test_a_section_that_does_not_exist_is_found(tmp_path: Path) -> None:
    (tmp_path / "rfc5321.txt").write_text(
        "1.  Introduction\n\n4.5.2.  Transparency\n\n   3. an item\nAppendix B.  Names\n"
    )
    source = '# RFC 5321 §4.5.2: dots\n# DEVIATES RFC 5321 §3.3 and §4.5.3: why\nX = "RFC 5321 §B, RFC 9999 §1"\n'
    package = tmp_path / "src" / "pochta"
    package.mkdir(parents=True)
    (package / "a.py").write_text(source)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text('@pytest.mark.rfc(5321, "4.5.2")\ndef test_dots(): ...\n')
    found = conformance.cited(tmp_path)
    assert conformance.check_sections(found, tmp_path) == (
        ["RFC 5321 has no §3.3: a.py", "RFC 5321 has no §4.5.3: a.py"],
        [9999],
    )
    page = conformance.page(found, {})
    assert "| 4.5.2 | shown | `a.py` | `tests/test_a.py::test_dots` |" in page
    assert "| 3.3 | deviates | `a.py` |  |" in page


TEXT: Final = """
   1.      Introduction ................ 2
1.  Introduction

   A server MUST greet and MUST
   NOT sleep; the client shall not must.

Crispin                     Standards Track                     [Page 1]
\f
RFC 3501                  THE MUST OF THE HEADER              March 2003

1.1.    Names
   SHALL NOT is REQUIRED; MUSTY is not.
Appendix B. Index
   MUST
"""


def test_words_are_counted_by_section() -> None:
    assert requirements.words(3501, TEXT) == [("1", 1), ("1", 2), ("1.1", 1), ("1.1", 2), ("B", 1)]
    assert requirements.words(1939, TEXT) == [("1", 1), ("1", 2), ("1", 3), ("B", 1)]


def entry(section: str, place: int, binds: str = "nobody", **more: Any) -> Any:  # Any: of the tool loaded by its path
    return requirements.Requirement(section, place, "words", binds, **more)


def test_a_word_without_entry_and_an_entry_without_word_are_found() -> None:
    listed = [entry("1", 1), entry("1", 2), entry("1.1", 1), entry("1.1", 2), entry("B", 1)]
    assert requirements.check_words(3501, listed, TEXT) == []
    assert requirements.check_words(3501, [*listed[1:], listed[1], entry("9", 1)], TEXT) == [
        "RFC 3501 §1 #1: not listed",
        "RFC 3501 §1 #2: listed, but not in the text, or twice",
        "RFC 3501 §9 #1: listed, but not in the text, or twice",
    ]


@pytest.mark.parametrize(
    ("rfc", "binds", "more", "fault"),
    [
        (3501, "nobody", {}, None),
        (3501, "client", {}, None),
        (3501, "server", {"deviates": "why"}, None),
        (3501, "both", {"tests": ("tests/test_a.py::test_dots", "tests/a.imap")}, None),
        (5321, "server", {"later": "the queue"}, None),
        (3501, "both", {}, "binds a server, and nothing shows it"),
        (3501, "client", {"deviates": "why"}, "binds no server, yet something is to show it"),
        (3501, "server", {"later": "the queue"}, "may not wait"),
        (3501, "serer", {}, "binds 'serer', which is none of server, client, both, nobody"),
        (3501, "server", {"tests": ("tests/test_a.py::test_none",)}, "tests/test_a.py::test_none: no such test"),
        (3501, "server", {"tests": ("tests/test_a.py",)}, "tests/test_a.py: no such test"),
        (3501, "server", {"tests": ("tests/test_b.py::test_dots",)}, "tests/test_b.py::test_dots: no such file"),
        (3501, "server", {"tests": ("test_a.py::test_dots",)}, "test_a.py::test_dots: no such file"),
        (3501, "server", {"tests": ("tests/b.imap",)}, "tests/b.imap: no such file"),
    ],
)
def test_faults_of_entries(tmp_path: Path, rfc: int, binds: str, more: dict[str, Any], fault: str | None) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("async def test_dots(): ...\n")
    (tmp_path / "tests" / "a.imap").write_text("")
    (tmp_path / "test_a.py").write_text("def test_dots(): ...\n")
    wanted = [] if fault is None else [f"RFC {rfc} §1 #1: {fault}"]
    assert requirements.check_entries(rfc, [entry("1", 1, binds, **more)], tmp_path) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[must]]\nsection = "1"\nplace = 1\nsays = "x"\n', "an entry is not of the form"),
        ('[[must]]\nsection = "1"\nplace = "1"\nsays = "x"\nbinds = "client"\n', "an entry is not of the form"),
        ('[[must]]\nsection = "1"\nplace = 1\nsays = ""\nbinds = "client"\n', "an entry is not of the form"),
        (
            '[[must]]\nsection = "1"\nplace = 1\nsays = "x"\nbinds = "client"\nwhy = "y"\n',
            "an entry is not of the form",
        ),
        ("[[must]]\nsection = 1\nsection = 2\n", "overwrite"),
        ("", "must"),
    ],
    ids=["name missing", "wrong type", "empty", "unknown name", "no TOML", "no entry"],
)
def test_files_of_another_form_are_found(tmp_path: Path, text: str, said: str) -> None:
    requirements.folder_of(tmp_path).mkdir(parents=True)
    (requirements.folder_of(tmp_path) / "rfc3501.toml").write_text(text)
    _, wrong = requirements.read(tmp_path)
    assert [line for line in wrong if line.startswith("rfc3501.toml: ") and said in line]
    assert "rfc5321.toml: is not there" in wrong


def test_page_of_requirements() -> None:
    listed = [
        entry("1", 1),
        entry("1", 2, "client"),
        entry("1.1", 1, "both", tests=("tests/a/test_a.py::test_dots", "tests/b.imap", "tests/a/test_a.py::test_b")),
        entry("1.1", 2, "server", tests=("tests/a.imap",), deviates="a|b\nwould break"),
        entry("1.2", 1, "server", later="the queue"),
    ]
    page = requirements.page({5321: listed})
    assert "| 5321 | 5 | 3 | 1 | 1 | 1 |" in page
    assert page[-3:] == [
        "| 1.1 | words | `a/test_a.py`: `test_dots`, `test_b`<br>`b.imap` |",
        r"| 1.1 | words | **deviates**: a\|b would break<br>`a.imap` |",
        "| 1.2 | words | **later**: the queue |",
    ]


def test_without_the_texts_the_check_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCHTA_RFC", str(tmp_path / "nowhere"))
    monkeypatch.setattr(conformance, "cited", dict)
    assert conformance.main(["--check"]) == 2
    assert "name their folder in POCHTA_RFC" in capsys.readouterr().err
