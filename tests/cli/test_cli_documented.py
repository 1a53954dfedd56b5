"""docs/commands.md against the commands: each is described, nothing else is, and the examples print what they say."""

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pochta import clock
from pochta.cli.main import COMMANDS, root

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
SHOWN_AT = 1_750_000_000


def leaves(command: click.Command, path: str) -> dict[str, click.Command]:
    """Every command that does something, by what one types."""
    if not isinstance(command, click.Group):
        return {path: command}
    context = click.Context(command)
    found: dict[str, click.Command] = {path: command} if command.invoke_without_command and path != "pochta" else {}
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        found |= leaves(child, f"{path} {name}")
    return found


ALL = leaves(root, "pochta")


def section_of(path: str) -> str:
    return PAGE.partition(f"## {path}\n")[2].partition("\n## ")[0]


def test_page_has_every_command_and_no_other() -> None:
    assert sorted(re.findall(r"^## (.+)$", PAGE, re.MULTILINE)) == sorted(ALL)


@pytest.mark.parametrize("path", ALL)
def test_section_has_an_example_of_its_command(path: str) -> None:
    words = path.removeprefix("pochta ")
    assert re.search(rf"^\$ .*pochta (?:-c \S+ )?{words}(?: |$)", section_of(path), re.MULTILINE)


@pytest.mark.parametrize("path", ALL)
def test_section_names_every_option(path: str) -> None:
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option) and parameter.name not in ("help", "yes", "as_json"):
            assert parameter.opts[0] in section_of(path), parameter.opts[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_table_says_what_the_command_says(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.help is not None
    assert command.help.splitlines()[0] == COMMANDS[name].help


def examples() -> list[tuple[str, str]]:
    """(command line, what it prints) of every console block, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            found.append((line, printed))
    return found


def test_examples_print_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clock.current(), "now", lambda: float(SHOWN_AT))
    for line, printed in examples():
        if line.startswith("cat "):
            Path(line.removeprefix("cat ")).write_text(printed, encoding="utf-8")
            continue
        echoed, _, command = line.rpartition(" | ")
        words = shlex.split(command)
        assert words[0] == "pochta"
        result = CliRunner().invoke(root, words[1:], input=echoed.removeprefix("echo ") + "\n", prog_name="pochta")
        shown = "".join(f"{one.rstrip()}\n" for one in result.output.splitlines())
        assert (line, result.exit_code, shown) == (line, 0, printed)
