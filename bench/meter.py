"""Processor time of processes and their children, how busy the machine was with other things, and how fast it was."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

_LOOPS = 600_000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """Nanoseconds of processor time by group and process, and the machine's ticks by kind."""

    at: float
    groups: Mapping[str, Mapping[int, int]]
    busy_seconds: float
    steal_seconds: float


@dataclass(frozen=True)
class Used:
    """`cpu` is seconds by group; `elsewhere` what the machine did beside the groups and the load generator."""

    seconds: float
    cpu: Mapping[str, float]
    elsewhere: float
    steal: float


@dataclass(frozen=True)
class Meter:
    """Reads groups of processes, each named by the ids of its first processes; their children count with them."""

    groups: Mapping[str, Sequence[int]]

    def read(self) -> Reading:
        busy, steal = _machine()
        groups = {name: _family_cpu(pids) for name, pids in self.groups.items()}
        return Reading(time.perf_counter(), groups, busy, steal)


def used(before: Reading, after: Reading, *, load_seconds: float = 0.0) -> Used:
    """What was used in between. A process that began meanwhile counts from zero; one that ended is not seen."""
    cpu = {
        name: sum(max(0, now - before.groups[name].get(pid, 0)) for pid, now in processes.items()) / 1e9
        for name, processes in after.groups.items()
    }
    busy = after.busy_seconds - before.busy_seconds
    return Used(
        seconds=after.at - before.at,
        cpu=cpu,
        elsewhere=max(0.0, busy - sum(cpu.values()) - load_seconds),
        steal=after.steal_seconds - before.steal_seconds,
    )


def calibrate() -> float:
    """Milliseconds of processor time for a fixed piece of Python. Virtual machines change speed from minute to minute."""
    began = time.thread_time()
    total = 0
    for number in range(_LOOPS):
        total += number % 7
    return (time.thread_time() - began) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def middle(values: Sequence[float]) -> float:
    return median(values) if values else float("nan")


def resident_megabytes(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1_048_576


def _family_cpu(pids: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for pid in pids:
        try:
            parent = psutil.Process(pid)
            family = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for process in family:
            nanoseconds = _cpu_nanoseconds(process)
            if nanoseconds is not None:
                found[process.pid] = nanoseconds
    return found


def _cpu_nanoseconds(process: psutil.Process) -> int | None:
    """From the scheduler's own account of every thread where the kernel keeps one: ticks of 10 ms are too coarse."""
    total = 0
    try:
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
        return total
    except (OSError, IndexError, ValueError):
        pass
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return None
    return int((times.user + times.system) * 1e9)


def _machine() -> tuple[float, float]:
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0.0, 0.0
    user, nice, system, _idle, _wait, interrupt, soft, steal = fields
    return (user + nice + system + interrupt + soft) / _TICKS, steal / _TICKS
