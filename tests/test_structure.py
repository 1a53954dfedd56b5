"""What the project says of itself, held against the code: layers, sizes, purity, and every page that lists things."""

import ast
import asyncio
import importlib
import re
import re._constants as re_constants  # the parser of `re`, which shows what a pattern repeats
import re._parser as re_parser
import smtplib
import ssl
from collections import defaultdict
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from pochta import config_page
from pochta.accounts.auth import Service
from pochta.accounts.sign_in import Channel, SignIns
from pochta.errors import RefusalCode
from pochta.proto.pop3.server import Pop3Server
from pochta.servers.imap import capabilities
from pochta.servers.imap.connection import ImapConnection
from pochta.servers.refusal import REFUSALS
from pochta.testing import Server

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "pochta"
DOCS: Final = ROOT / "docs"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))

MAX_MODULE_LINES: Final = 600
MAX_FUNCTION_LINES: Final = 50
# "store/postgres.py" or "store/postgres.py:connect", with the reason
SIZE_EXCEPTIONS: Final[dict[str, str]] = {}

# "module -> imported", with the reason: imports for types only that the table of ARCHITECTURE.md does not allow
TYPE_ONLY: Final[dict[str, str]] = {}

PURE: Final = ("proto", "mime", "sieve")
IMPURE: Final = {"asyncio", "socket", "ssl", "time", "random", "os", "logging"}
PROTOCOLS: Final = {"smtp", "imap", "pop3", "managesieve", "lmtp", "metrics"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


TREES: Final = {name_of(path): tree_of(path) for path in MODULES}


def table(page: Path, heading: str, columns: int) -> list[list[str]]:
    """The rows of the first table under the line that begins with `heading`, without its head."""
    lines = page.read_text(encoding="utf-8").split(f"\n{heading}", 1)[1].splitlines()[1:]
    rows = list(takewhile(lambda line: line.startswith("|"), dropwhile(lambda line: not line.startswith("|"), lines)))
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert {len(row) for row in split} == {columns}, page
    return split[2:]


# Layers


def package_of(module: str) -> str:
    """`store` for `pochta.store.lane`, `app` for `pochta.app`."""
    return module.split(".")[1] if "." in module else ""


def imports(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """(module, only for types?) of every import, `from a import b` as `a.b`."""
    type_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            names = [f"{node.module}.{one.name}" for one in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) in type_only


def allowed_imports() -> dict[str, set[str]]:
    rows = table(ROOT / "ARCHITECTURE.md", "## Who may import whom", 2)
    return {package: {one.strip() for one in names.split(",")} - {""} for package, names in rows}


ALLOWED: Final = allowed_imports()


def test_table_of_layers_has_every_package_and_no_other() -> None:
    found = {name.split("/")[0].removesuffix(".py") for name in TREES} - {"__init__"}
    assert found == set(ALLOWED)
    assert {one for names in ALLOWED.values() for one in names} <= found


def test_table_of_layers_has_no_circle() -> None:
    left = dict(ALLOWED)
    while left:
        free = {package for package, names in left.items() if not names & left.keys()}
        assert free, f"these import each other: {sorted(left)}"
        left = {package: names for package, names in left.items() if package not in free}


def module_imports() -> Iterator[tuple[str, str, bool]]:
    """(file, what of pochta it imports, only for types?)."""
    for name, tree in TREES.items():
        for imported, is_type_only in imports(tree):
            if imported.startswith("pochta.") and imported != "pochta.__version__":
                yield name, imported, is_type_only


def test_imports_keep_to_the_table() -> None:
    wrong, looks_up = [], set()
    for name, imported, is_type_only in module_imports():
        own, other = name.split("/")[0].removesuffix(".py"), package_of(imported)
        if other == own or other in ALLOWED[own]:
            continue
        if is_type_only:
            looks_up.add(f"{name} -> {imported}")
        else:
            wrong.append(f"{name} -> {imported}")
    assert wrong == []
    assert looks_up == set(TYPE_ONLY)


def test_protocols_do_not_import_each_other() -> None:
    wrong = []
    for name, imported, _ in module_imports():
        own, other = name.removesuffix(".py").split("/"), imported.split(".")[1:]
        same_package = own[0] == other[0] and own[0] in ("servers", "proto")
        if same_package and len(own) > 1 and len(other) > 1:
            parts = {own[1], other[1]}
            if len(parts) == 2 and parts <= PROTOCOLS:
                wrong.append(f"{name} -> {imported}")
    assert wrong == []


@pytest.mark.parametrize("package", [one for one in PURE if one in ALLOWED])
def test_pure_packages_do_no_io(package: str) -> None:
    found = [
        f"{name} -> {imported}"
        for name, tree in TREES.items()
        if name.startswith(f"{package}/")
        for imported, _ in imports(tree)
        if imported.split(".")[0] in IMPURE
    ]
    assert found == []


def test_time_and_randomness_come_from_the_clock() -> None:
    sources = {"time", "random", "secrets", "uuid"}
    found = {name for name, tree in TREES.items() for one, _ in imports(tree) if one.split(".")[0] in sources}
    assert found == {"clock.py"}


def test_nobody_imports_sqlite3() -> None:
    line = re.compile(r"^\s*(import|from) sqlite3\b", re.MULTILINE)
    paths = [path for folder in ("src", "tests", "tools", "bench") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in paths if line.search(path.read_text(encoding="utf-8"))] == []


# Sizes


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))


def too_large() -> dict[str, int]:
    found = {}
    for path in MODULES:
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > MAX_MODULE_LINES:
            found[name_of(path)] = lines
        for one in functions(TREES[name_of(path)]):
            length = (one.end_lineno or one.lineno) - one.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found[f"{name_of(path)}:{one.name}"] = length
    return found


def test_modules_and_functions_are_small() -> None:
    found = too_large()
    assert {name: size for name, size in found.items() if name not in SIZE_EXCEPTIONS} == {}
    assert set(SIZE_EXCEPTIONS) <= set(found), "no exception is needed any more"


# Marks in the code

REASON: Final = {
    "noqa": re.compile(r"#\s*noqa: [A-Z0-9, ]+ - \S"),
    "type: ignore": re.compile(r"#\s*type: ignore\[[a-z, -]+\]\s+# \S"),
}


def lines_with(words: tuple[str, ...], *folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if path != Path(__file__) and any(word in line for word in words):
                    yield f"{path.relative_to(ROOT)}:{number}", line


@pytest.mark.parametrize("mark", REASON)
def test_exceptions_for_the_checkers_have_a_reason(mark: str) -> None:
    found = [where for where, line in lines_with((f"# {mark}",), "src", "tools") if not REASON[mark].search(line)]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    assert list(lines_with(("TODO", "FIXME", "XXX"), "src", "tests", "tools")) == []


# Store functions


def module_level(tree: ast.Module) -> set[str]:
    """Names that a module defines or imports at its top."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {one.asname or one.name.split(".")[0] for one in node.names}
    return names | {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


def written_functions(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.expr]]:
    """(call, the function) of every `store.write(account_id, fn, …)` and of the command line's `write(ctx, fn, …)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and len(node.args) >= 2:
            called = ast.unparse(node.func)
            if called == "write" or re.search(r"(^|[._])store\.write$", called):
                yield node, node.args[1]


def test_functions_of_the_write_lane_are_module_level() -> None:
    wrong, count = [], 0
    for name, tree in TREES.items():
        known = module_level(tree)
        parameters = {
            one.arg for function in functions(tree) for one in (*function.args.args, *function.args.posonlyargs)
        }
        for call, given in written_functions(tree):
            count += 1
            base = given.value if isinstance(given, ast.Attribute) else given
            # a parameter is handed on: whoever gave it is looked at here too, or by Store itself
            if not (isinstance(base, ast.Name) and base.id in known | parameters):
                wrong.append(f"{name}:{call.lineno}: {ast.unparse(given)}")
    assert count > 20, "the calls are not found any more"
    assert wrong == []


# Pages


def test_settings_page_is_current() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == config_page.settings_page()


def test_every_refusal_has_an_answer() -> None:
    assert set(REFUSALS) == set(RefusalCode)


def logged_events() -> dict[str, set[str]]:
    """Every event of the code with its fields."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "log.event":
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{name}:{node.lineno}: the name of an event is written out"
                assert all(one.arg for one in node.keywords), f"{name}:{node.lineno}: fields are written out"
                found[str(event.value)] |= {str(one.arg) for one in node.keywords}
    return dict(found)


def test_events_page_has_every_event_with_its_fields() -> None:
    rows = table(DOCS / "events.md", "One line", 3)
    listed = {row[0].strip("`"): {one.strip() for one in row[1].split(",")} - {""} for row in rows}
    assert listed == logged_events()
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert all(row[2].endswith(".") for row in rows)


def test_events_are_named_by_area_and_what_happened() -> None:
    assert [one for one in logged_events() if not re.fullmatch(r"bug|[a-z][a-z0-9]*(\.[a-z_]+){1,2}", one)] == []


SINGLE: Final = {re_constants.IN, re_constants.LITERAL, re_constants.NOT_LITERAL, re_constants.ANY}
FAILS_AT_ONCE: Final = {re_constants.ASSERT, re_constants.ASSERT_NOT}


def doubtful_repeats(tree: Any) -> Iterator[str]:  # Any: the parser of `re` has no public types
    """Possessive repeats of a group that may fail behind something it has taken."""
    for operator, value in tree:
        if operator is re_constants.POSSESSIVE_REPEAT:
            body = value[2]
            if not (len(body) == 1 and body[0][0] in SINGLE) and body[0][0] not in FAILS_AT_ONCE:
                yield str(body)
        for part in value if isinstance(value, list | tuple) else [value]:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, re_parser.SubPattern):
                    yield from doubtful_repeats(inner)


def test_no_pattern_meets_the_bug_of_older_pythons() -> None:
    """CPython before 3.11.5, and so Debian 12, repeats such groups from where they failed (gh-106052)."""
    found: dict[str, list[str]] = {}
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        if name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(name.removesuffix(".__init__"))).values():
            if isinstance(value, re.Pattern):
                flags = value.flags & ~(re.UNICODE if isinstance(value.pattern, bytes) else 0)
                repeats = list(doubtful_repeats(re_parser.parse(value.pattern, flags)))
                if repeats:
                    found[f"{name}: {value.pattern!r}"] = repeats
    assert found == {}


def mechanisms() -> tuple[str, ...]:
    """Every SASL mechanism, as on a connection where all of them can work."""
    anything: Any = object()  # what is offered asks nothing of those who would carry it out
    everything = SignIns(anything, offers_scram=True, offers_scram_plus=True, tokens=anything, kerberos=anything)
    channel = Channel(
        service=Service.IMAP, peer="", is_private=True, client_names=("anna@example.org",), end_point=lambda: b"x"
    )
    return everything.mechanisms(channel)


def advertised_by_imap() -> set[str]:
    """Every capability, over the states a connection can be in."""
    found = {f"AUTH={one}" for one in mechanisms()}
    for offers_starttls, is_secure, account_id in (
        (True, False, 0),
        (False, True, 0),
        (False, False, 0),
        (False, True, 1),
    ):
        # Any: what is advertised asks nothing of the server around it
        sign_ins = SignIns(cast(Any, None))
        context = cast(
            Any,
            SimpleNamespace(sign_ins=sign_ins, message_size_bytes=1, message_limit=1, has_unauthenticate=True),
        )
        connection = ImapConnection(context, offers_starttls=offers_starttls, allows_plaintext_auth=False)
        connection._transport = asyncio.Transport()
        connection.is_secure, connection.account_id = is_secure, account_id
        # a number behind "=" is a setting
        found |= {re.sub("LIMIT=[0-9]+$", "LIMIT=", one) for one in capabilities.shown(connection).decode().split()}
    return found


def advertised_by_smtp() -> set[str]:
    """Every EHLO keyword and mechanism, of every listener, in the clear and under TLS."""
    found = {f"AUTH {one}" for one in mechanisms()}
    with Server(with_tls=True) as server:
        context = ssl.create_default_context(cafile=server.certificate)
        for port in (server.smtp_port, server.submission_port):
            with smtplib.SMTP("localhost", port) as smtp:
                for _ in range(2):
                    smtp.ehlo()
                    found |= {one.upper() for one in smtp.esmtp_features if one != "auth"}
                    found |= {f"AUTH {one}" for one in smtp.esmtp_features.get("auth", "").split()}
                    if smtp.has_extn("starttls"):
                        smtp.starttls(context=context)
    return found


def advertised_by_pop3() -> set[str]:
    """Every line of CAPA, each mechanism by itself, in the clear and under TLS."""
    found = {f"SASL {one}" for one in mechanisms()}
    for is_secure in (False, True):
        engine = Pop3Server("mail.example.org", can_start_tls=True, is_secure=is_secure)
        for line in engine.capabilities():
            word, _, rest = line.partition(" ")
            found |= {f"SASL {one}" for one in rest.split()} if word == "SASL" else {line}
    return found


def test_capabilities_page_has_everything_advertised() -> None:
    rows = table(DOCS / "capabilities.md", "One row", 4)
    listed = {(row[0], row[1].strip("`")) for row in rows}
    advertised = {"IMAP": advertised_by_imap(), "POP3": advertised_by_pop3(), "SMTP": advertised_by_smtp()}
    assert listed == {(protocol, word) for protocol, words in advertised.items() for word in words}


# They need a partner or a setting of their own, which a dialogue has not
WITHOUT_DIALOGUE: Final = ("AUTH=", "MESSAGELIMIT=")


def words_of_dialogues() -> dict[str, set[str]]:
    """The capabilities that each dialogue shows, as its header says, by its path."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests" / "dialogues").glob("*.imap")):
        header = re.search(r"^# capability: (.+)$", path.read_text(encoding="ascii"), re.MULTILINE)
        found[str(path.relative_to(ROOT))] = set(header[1].split()) if header else set()
    return found


def test_every_capability_of_imap_has_a_dialogue() -> None:
    shown = set().union(*words_of_dialogues().values())
    assert shown == {word for word in advertised_by_imap() if not word.startswith(WITHOUT_DIALOGUE)}


def test_capabilities_name_a_test_of_them() -> None:
    dialogues = words_of_dialogues()
    for protocol, shown, source, file in table(DOCS / "capabilities.md", "One row", 4):
        word, path = shown.strip("`"), file.strip("`")
        assert re.fullmatch(r"RFC \d+( §[\d.]+)?|draft-[a-z0-9-]+|no standard", source), source
        if protocol == "IMAP" and not word.startswith(WITHOUT_DIALOGUE):
            assert word in dialogues[path], (word, path)
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        slug = re.sub("[-= ]", "_", word.strip("=").lower().replace("+", "_plus"))  # test_sasl_ir_needs_no_challenge
        # a mechanism is shown in all protocols at once, by its name alone
        is_shown = "signin" in path and f'"{re.split("[= ]", word)[-1]}"' in text
        is_shown = is_shown or f"def test_{slug}_" in text or (protocol == "SMTP" and word in text)
        assert is_shown or "AUTH=GSSAPI" in text, (protocol, word, path)
