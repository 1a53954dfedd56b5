"""The share of mutmut's mutants that the tests of proto/ and mime/ find: `.ci/mutation`, which runs this on a copy.

mutmut makes the mutants, the switch between them and the files of results, so that `mutmut results` and `mutmut show
NAME` work afterwards in the folder it ran in. Trying them is done here. mutmut starts pytest anew for every mutant and
collects two thousand tests, which took 1.5 s a mutant and three hours for all; and the second collection in one process
gives other names to tests with a backslash in theirs, so that mutmut stops. Here pytest collects once, and each mutant
gets a fork of that process, which runs the tests that reach the mutated function, quick ones first, until one fails.

What mutmut cannot change: statements at the level of a module or class (tables, patterns, limits) and functions with
a decorator. Functions that run only while modules are imported count as reached by no test.
"""

import argparse
import gc
import os
import pickle
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies
from mutmut.__main__ import create_mutants
from mutmut.configuration import config
from mutmut.mutation import trampoline
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths, walk_mutatable_files
from mutmut.utils.format_utils import mangled_name_from_mutant_name

# Property tests draw few examples, the same ones each time: the whole suite then takes some 12 s of processor time
_EXAMPLES: Final = 15
# Some four times the slowest test
_TEST_CPU_S: Final = 5
# An endless loop that appends must not take the machine's memory; the tests themselves need some 300 MB
_MEMORY_BYTES: Final = 2 << 30

# Exit codes as mutmut reads them
_KILLED: Final = 1
_SURVIVED: Final = 0
_NO_TESTS: Final = 33
_SKIPPED: Final = 34
_TIMEOUT: Final = 36

T = TypeVar("T")

_COLUMNS: Final = ("killed", "timeout", "survived", "no tests")


@dataclass(slots=True)
class _Trial:
    """One mutant's process."""

    data: SourceFileMutationData
    name: str
    started_at: float
    reader: int


@dataclass(slots=True)
class Trials:
    """The pytest plugin that tries mutants in place of running the tests."""

    mutants: list[tuple[SourceFileMutationData, str]]
    children: int
    items_of: dict[str, list[pytest.Item]] = field(default_factory=dict)
    running: dict[int, _Trial] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Hold the property tests to few examples, their own number notwithstanding."""
        for item in items:
            test = getattr(item, "obj", None)
            drawn = getattr(test, "_hypothesis_internal_use_settings", None)
            if drawn is not None and drawn.max_examples > _EXAMPLES:
                few = settings(drawn, max_examples=_EXAMPLES)
                vars(getattr(test, "__func__", test))["_hypothesis_internal_use_settings"] = few

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Find out which tests reach which function, then try every mutant."""
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected")
        session.config.pluginmanager.unregister(name="terminalreporter")
        _warm_up()
        reached = _in_child(lambda: _reached(session))
        by_nodeid = {item.nodeid: item for item in session.items}
        order = sorted(reached, key=lambda nodeid: reached[nodeid][0])
        for nodeid in order:
            for function in reached[nodeid][1]:
                self.items_of.setdefault(function, []).append(by_nodeid[nodeid])
        if _in_child(lambda: _run(session, session.items, mutant="fail")) is None:
            raise pytest.UsageError("no test fails where every function does: the tests run other code")
        if _in_child(lambda: _run(session, session.items, mutant="")) is not None:
            raise pytest.UsageError("a test fails within the limits of a mutant's process")
        gc.freeze()
        for number, (data, name) in enumerate(self.mutants):
            items = self.items_of.get(mangled_name_from_mutant_name(name))
            if items is None:
                data.exit_code_by_key[name] = _NO_TESTS
                continue
            if len(self.running) >= self.children:
                self._wait()
            self._start(session, data, name, items)
            if number % 100 == 0:
                sys.stderr.write(f"{number} of {len(self.mutants)}\n")
        while self.running:
            self._wait()
        return True

    def _start(
        self, session: pytest.Session, data: SourceFileMutationData, name: str, items: Sequence[pytest.Item]
    ) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            finder = _run(session, items, mutant=name)
            if finder is not None:
                os.write(writer, b"%d" % finder)
            os._exit(_SURVIVED if finder is None else _KILLED)
        os.close(writer)
        self.running[pid] = _Trial(data, name, time.monotonic(), reader)

    def _wait(self) -> None:
        pid, status = os.wait()
        trial = self.running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if -code in (signal.SIGPROF, signal.SIGKILL):
            code = _TIMEOUT
        trial.data.exit_code_by_key[trial.name] = code
        trial.data.durations_by_key[trial.name] = time.monotonic() - trial.started_at
        with os.fdopen(trial.reader, "rb") as pipe:
            finder = pipe.read()
        if finder:
            # What found one mutant of a function is likely to find the next. The place is that of the list at the
            # trial's start: with several children another test may be put first, which costs a little time.
            items = self.items_of[mangled_name_from_mutant_name(trial.name)]
            items.insert(0, items.pop(int(finder)))


def _warm_up() -> None:
    """Let Hypothesis read the modules for constants once and not in every fork."""

    @settings(max_examples=1)
    @given(strategies.integers())
    def nothing(number: int) -> None:
        pass

    nothing()


def _limit() -> None:
    """Hold this process to some memory and an end; the timer of `_run` is the usual end."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _run(session: pytest.Session, items: Sequence[pytest.Item], *, mutant: str) -> int | None:
    """The place of the first test that fails with that mutant in the place of its function, None where none does."""
    trampoline.get_mutant_under_test = lambda: mutant
    _limit()
    _silence()
    before = session.testsfailed
    place = 0
    try:
        for place, (item, after) in enumerate(zip(items, [*items[1:], None], strict=True)):
            signal.setitimer(signal.ITIMER_PROF, _TEST_CPU_S)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if session.testsfailed > before:
                return place
    except BaseException:  # noqa: BLE001 - a mutant may raise what ends the run itself
        return place
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _reached(session: pytest.Session) -> dict[str, tuple[float, set[str]]]:
    """How long each test takes and which mutated functions it reaches.

    In a process of its own: what the code remembers between calls must not hide a function from the mutants' tests.
    """
    trampoline.get_mutant_under_test = lambda: "stats"
    _silence()
    reached = {}
    for item, after in zip(session.items, [*session.items[1:], None], strict=True):
        started_at = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        reached[item.nodeid] = (time.process_time() - started_at, set(state()._stats))
        state()._stats.clear()
        if session.testsfailed:
            raise RuntimeError(f"{item.nodeid} fails without any mutant")
    return reached


def _silence() -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def _in_child(call: Callable[[], T]) -> T:
    """What the call gives in a fork of this process; its exception, as text, where it raises."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reader)
        try:
            answer: tuple[bool, Any] = (True, call())
        except BaseException as error:  # noqa: BLE001 - it is told to the parent, whatever it is
            answer = (False, repr(error))
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        is_well, value = pickle.load(pipe)
    os.waitpid(pid, 0)
    if not is_well:
        raise SystemExit(value)
    return value  # type: ignore[no-any-return]  # pickled above


def _chosen(
    files: Sequence[SourceFileMutationData], only: Sequence[str], sample: int
) -> Iterator[tuple[SourceFileMutationData, str]]:
    """The mutants to try: of each module that matches all, or `sample` of them, the same ones as long as it stays."""
    for data in files:
        names = list(data.exit_code_by_key)
        data.exit_code_by_key = dict.fromkeys(names, _SKIPPED)
        if only and not any(fnmatch(str(data.path), pattern) for pattern in only):
            continue
        if sample:
            names = sorted(names, key=lambda name: sha256(name.encode()).digest())[:sample]
        for name in names:
            yield data, name


def _row(title: str, counts: Counter[str], made: int) -> str:
    tried = sum(counts[column] for column in _COLUMNS)
    found = counts["killed"] + counts["timeout"]
    share = f"{100 * found / tried:6.1f} %" if tried else ""
    return f"{title:<28}{made:>7}{tried:>7}" + "".join(f"{counts[column]:>10}" for column in _COLUMNS) + f"{share:>11}"


def _report(files: Sequence[SourceFileMutationData]) -> tuple[str, float]:
    """The table, and the share found in percent."""
    lines = [f"{'module':<28}{'made':>7}{'tried':>7}" + "".join(f"{column:>10}" for column in _COLUMNS) + "      found"]
    total: Counter[str] = Counter()
    made = 0
    for data in sorted(files, key=lambda data: str(data.path)):
        counts = Counter(
            _status(code) for code in data.exit_code_by_key.values() if code is not None and code != _SKIPPED
        )
        if counts:
            lines.append(_row(str(data.path).removeprefix("src/pochta/"), counts, len(data.exit_code_by_key)))
            total += counts
            made += len(data.exit_code_by_key)
    lines.append(_row("all", total, made))
    return "\n".join(lines), 100 * (total["killed"] + total["timeout"]) / max(1, sum(total.values()))


def _survivors(mutants: Sequence[tuple[SourceFileMutationData, str]]) -> str:
    return "\n\n".join(
        f"{name}\n{get_diff_for_mutant(name, path=data.path)}"
        for data, name in mutants
        if _status(data.exit_code_by_key[name] or 0) in ("survived", "no tests")
    )


def _status(code: int) -> str:
    """mutmut's word; whatever else ends a process, a signal or a failed import, is a mutant found."""
    status = status_by_exit_code[code]
    return status if status in _COLUMNS else "killed"


def main() -> int:
    """Try the mutants of the copy in the working directory; 1 where too few are found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="processes at once")
    parser.add_argument("--sample", type=int, default=0, help="so many mutants of each module and not all")
    parser.add_argument("--only", nargs="*", default=[], help="modules, such as 'src/pochta/mime/*'")
    parser.add_argument("--floor", type=float, default=75.0, help="percent that must be found")
    parser.add_argument("--survivors", type=Path, help="where the changes that no test found are written")
    options = parser.parse_args()

    trampoline.set_mutant_under_test("mutant_generation")
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    create_mutants(options.children)
    files = [SourceFileMutationData(path=path) for path in walk_mutatable_files()]
    for data in files:
        data.load()
    mutants = list(_chosen(files, options.only, options.sample))

    settings.register_profile(
        "mutation",
        max_examples=_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutation")
    os.chdir("mutants")
    # Hypothesis is here before pytest could rewrite its assertions, which are none of ours
    quiet = ["--tb=native", "-p", "no:randomly", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    selection = [*config().pytest_add_cli_args, *config().pytest_add_cli_args_test_selection]
    code = pytest.main(["--rootdir=.", *quiet, *selection], plugins=[Trials(mutants, options.children)])
    if code != pytest.ExitCode.OK:
        return 2
    os.chdir("..")

    for data in files:
        data.save()
    if options.survivors:
        options.survivors.write_text(_survivors(mutants), encoding="utf-8")
    table, share = _report(files)
    sys.stdout.write(f"{table}\n")
    return int(share < options.floor)


if __name__ == "__main__":
    sys.exit(main())
