"""CPU time and memory of process trees, from /proc, and a word on the machine."""

import os
import platform
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """The process and everything below it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, ())
    return found


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def cpu_s(root: int, *, with_ended: bool = False) -> float:
    """User and system seconds of the tree so far; `with_ended`: also of its processes that were waited for."""
    total = 0
    for pid in tree(root):
        fields = _stat(pid)
        total += sum(map(int, fields[11 : 15 if with_ended else 13]))
    return total / TICKS_PER_S


def memory_kib(root: int) -> tuple[int, int]:
    """(PSS, RSS) of the tree in KiB."""
    pss = rss = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        values = {line.split()[0]: int(line.split()[1]) for line in lines[1:] if line.endswith("kB")}
        pss += values.get("Pss:", 0)
        rss += values.get("Rss:", 0)
    return pss, rss


def machine() -> str:
    """One line: processor, cores, memory, system, Python."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return (
        f"{model}, {cores} cores, {gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()},"
        f" load {load:.2f} before the run"
    )
