"""What RFC 5321, 1939 and 3501 require of a server, and what shows it: tests/requirements, for tools/conformance.py.

One file per RFC, rfcNNNN.toml, one entry for every requirement word of its text, in the order of the text:

    [[must]]
    section = "6.4.8"
    place = 1                        the nth such word in the section's own text, subsections left out
    says = "the requirement in our words"
    binds = "server"                 server, client, both, or nobody: definitions, registries, talk of design
    tests = ["tests/servers/test_x.py::test_name", "tests/dialogues/x.imap"]
    deviates = "why, and which client would break otherwise"
    later = "what it waits for"      where the part that it speaks of is not built

What binds a server has at least one of the last three, what does not has none. The words are MUST, SHALL and REQUIRED,
with NOT, in capitals; in RFC 1939, older than RFC 2119, `must` in any case.
"""

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

# In the order of the page
LISTED: Final = (5321, 3501, 1939)
# The sending half of SMTP comes with the queue; nothing of the other two may wait
MAY_WAIT: Final = frozenset({5321})
BINDS: Final = ("server", "client", "both", "nobody")

_WORD: Final = re.compile(r"\b(?:MUST|SHALL)\b(?:\s+NOT\b)?|\bREQUIRED\b")
_OLD_WORD: Final = re.compile(r"\bmust\b(?:\s+not\b)?", re.IGNORECASE)
_FURNITURE: Final = re.compile(r"\n+[^\n]*\[Page \d+\]\n\f?\n?(?:RFC \d+[^\n]*\n)?\n*")
_HEADING: Final = re.compile(r"^(?:Appendix )?((?:\d+|[A-Z])(?:\.\d+)*)\.[ \t]+\S", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement word of an RFC."""

    section: str
    place: int
    says: str
    binds: str
    tests: tuple[str, ...] = ()
    deviates: str = ""
    later: str = ""

    @property
    def name(self) -> str:
        """Section and place: `6.4.8 #1`."""
        return f"{self.section} #{self.place}"

    @property
    def binds_server(self) -> bool:
        return self.binds in ("server", "both")

    @property
    def state(self) -> str:
        """`shown`, `deviates`, `later`, or `open`, which is wrong; a deviation with a test stays a deviation."""
        if self.deviates:
            return "deviates"
        if self.later:
            return "later"
        return "shown" if self.tests else "open"


def folder_of(root: Path) -> Path:
    """Where the files are."""
    return root / "tests" / "requirements"


def read(root: Path) -> tuple[dict[int, list[Requirement]], list[str]]:
    """The requirements of every RFC that has a file, and what is wrong with the form of the files, each as one line."""
    found: dict[int, list[Requirement]] = {}
    wrong: list[str] = []
    for rfc in LISTED:
        path = folder_of(root) / f"rfc{rfc}.toml"
        if not path.exists():
            wrong.append(f"{path.name}: is not there")
            continue
        try:
            entries = tomllib.loads(path.read_text(encoding="utf-8"))["must"]
        except (tomllib.TOMLDecodeError, KeyError) as error:
            wrong.append(f"{path.name}: {error}")
            continue
        found[rfc] = []
        for entry in entries:
            if one := _requirement(entry):
                found[rfc].append(one)
            else:
                wrong.append(f"{path.name}: an entry is not of the form: {entry}")
    return found, wrong


def _requirement(entry: dict[str, object]) -> Requirement | None:
    """The entry, None where a name or a type is not of the form."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    types = {
        one.name: int if one.name == "place" else tuple if one.name == "tests" else str for one in fields(Requirement)
    }
    if not {"section", "place", "says", "binds"} <= values.keys() <= types.keys():
        return None
    if not all(isinstance(value, types[name]) and value for name, value in values.items()):
        return None
    return Requirement(**values)  # type: ignore[arg-type]  # the types were compared above


def words(rfc: int, text: str) -> list[tuple[str, int]]:
    """(section, place) of every requirement word, in the order of the text; not those of page headers and footers."""
    pattern = _OLD_WORD if rfc < 2119 else _WORD
    text = _FURNITURE.sub("\n", text)
    headings = [(match.start(), match[1]) for match in _HEADING.finditer(text)]
    ends = [start for start, _ in headings[1:]] + [len(text)]
    found = []
    for (start, name), end in zip(headings, ends, strict=True):
        count = sum(1 for _ in pattern.finditer(text, start, end))
        found += [(name, place) for place in range(1, count + 1)]
    return found


def check_words(rfc: int, listed: Iterable[Requirement], text: str) -> list[str]:
    """Which words of the RFC have no entry, and which entries no word, each as one line."""
    want, have = Counter(words(rfc, text)), Counter((one.section, one.place) for one in listed)
    return [f"RFC {rfc} §{name} #{place}: not listed" for name, place in want - have] + [
        f"RFC {rfc} §{name} #{place}: listed, but not in the text, or twice" for name, place in have - want
    ]


def check_entries(rfc: int, listed: Iterable[Requirement], root: Path) -> list[str]:
    """What the entries lack, or claim without ground, each as one line."""
    return [f"RFC {rfc} §{one.name}: {fault}" for one in listed for fault in _faults(rfc, one, root)]


def _faults(rfc: int, one: Requirement, root: Path) -> Iterator[str]:
    if one.binds not in BINDS:
        yield f"binds {one.binds!r}, which is none of {', '.join(BINDS)}"
    if one.binds_server and one.state == "open":
        yield "binds a server, and nothing shows it"
    if not one.binds_server and one.state != "open":
        yield "binds no server, yet something is to show it"
    if one.later and rfc not in MAY_WAIT:
        yield "may not wait"
    for test in one.tests:
        path, _, function = test.partition("::")
        if not path.startswith("tests/") or not (root / path).is_file():
            yield f"{test}: no such file"
        elif path.endswith(".py") and function not in _functions(root / path):
            yield f"{test}: no such test"


@cache
def _functions(path: Path) -> frozenset[str]:
    """The names of the tests of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def page(found: dict[int, list[Requirement]]) -> list[str]:
    """The lines of the page: the counts, then for each RFC what binds a server."""
    lines = [
        "## What a server must do",
        "",
        "Every requirement word (MUST, SHALL, REQUIRED) of the three RFCs is listed in `tests/requirements`, and the",
        "list is held against their texts. Those that bind a server are below: *shown* by a test (named from `tests/`",
        "on); *deviates* for a reason that names who would break otherwise; *later* with the part that sends mail.",
        "",
        "| RFC | words | bind a server | shown | deviate | later |",
        "|---|---|---|---|---|---|",
    ]
    for rfc, listed in found.items():
        states = Counter(one.state for one in listed if one.binds_server)
        counts = (len(listed), states.total(), states["shown"], states["deviates"], states["later"])
        lines.append(f"| {rfc} | {' | '.join(map(str, counts))} |")
    for rfc, listed in found.items():
        lines += ["", f"### RFC {rfc}: requirements", "", "| section | requirement | shown by |", "|---|---|---|"]
        for one in listed:
            if one.binds_server:
                lines.append(f"| {one.section} | {_cell(one.says)} | {_shown_by(one)} |")
    return lines


def _shown_by(one: Requirement) -> str:
    """The last cell: the deviation or what is waited for, then the tests by file, named from `tests/` on."""
    parts = []
    if one.deviates:
        parts.append(f"**deviates**: {_cell(one.deviates)}")
    if one.later:
        parts.append(f"**later**: {_cell(one.later)}")
    names: dict[str, list[str]] = defaultdict(list)
    for test in one.tests:
        path, _, function = test.removeprefix("tests/").partition("::")
        names[path] += [f"`{function}`"] if function else []
    parts += [f"`{path}`: {', '.join(functions)}" if functions else f"`{path}`" for path, functions in names.items()]
    return "<br>".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
