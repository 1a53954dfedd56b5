"""The CPU clock of a process tree, and when it counts as at rest."""

import os
import subprocess
import sys
from pathlib import Path

from measure import rest

SPIN = """
import subprocess, sys, threading, time
def spin():
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
thread = threading.Thread(target=spin)
thread.start()
thread.join()
if sys.argv[1] == "child":
    alone = [sys.executable, "-S", "-c", sys.argv[2], "alone"]
    subprocess.run(alone, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print("done", flush=True)
sys.stdin.read()
"""


def started(kind: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", SPIN, kind, SPIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def test_threads_that_ended_are_counted() -> None:
    with started("alone") as process:
        used = rest.cpu([process.pid])
        assert used.own_s >= 0.05
        assert used.reaped == {process.pid: (0, 0)}
        process.communicate()


def test_processes_that_ended_are_counted_in_ticks() -> None:
    nothing = rest.Cpu(0.0, {})
    with started("child") as process:
        used = rest.cpu([process.pid])
        assert used.total_s >= 0.05 + 0.03
        assert used.error_s(nothing) in (rest.TICK_S, 2 * rest.TICK_S)
        assert used.error_s(used) == 0
        process.communicate()


def test_a_tree_has_its_children_and_memory() -> None:
    with started("alone") as process:
        assert process.pid in rest.trees([os.getpid()])
        pss, rss = rest.memory_mb([process.pid])
        assert 0 < pss <= rss
        process.communicate()


def test_a_server_that_does_nothing_is_at_rest_at_once(tmp_path: Path) -> None:
    with started("alone") as process:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{process.pid}\n")
        watched = rest.Watched([pid_file, tmp_path / "missing"], None)
        assert watched.roots() == [process.pid]
        done = rest.wait(watched)
        assert done.is_reached
        assert done.inner is None
        process.communicate()
