"""From samples to a table: medians over the rounds, set beside the targets."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.meter import middle
from bench.scenarios import Sample, rate
from bench.stack import GROUPS

RESULTS = Path(__file__).parent / "results"
FLOOR, INGEST = "webhook ingest, floor", "webhook ingest, 32 at once"


@dataclass
class Row:
    """Medians of one scenario over the rounds."""

    name: str
    rounds: int
    per_second: float
    latency_ms: list[float]
    cpu_us: dict[str, float]
    figures: dict[str, float]
    calibration_ms: float
    elsewhere: float
    steal: float
    own_cpu_us_range: list[float]
    ratio_to_floor: float | None = None
    target: str = ""
    met: bool | None = None

    @property
    def own_cpu_us(self) -> float:
        return self.cpu_us.get("api", 0.0) + self.cpu_us.get("worker", 0.0)


@dataclass(frozen=True)
class Target:
    """Holds for the rows whose names begin so."""

    row: str
    words: str
    is_met: Callable[[Row], bool]


TARGETS = (
    Target(
        "initiate, jwt, 100 at once, provider 100 ms",
        "≤ 2,000 µs, p95 < 250 ms",
        lambda row: _cpu(row, 2_000) and row.latency_ms[1] < 250,
    ),
    Target("initiate", "≤ 2,000 µs", lambda row: _cpu(row, 2_000)),
    Target(INGEST, "≤ 450 µs", lambda row: row.cpu_us["api"] <= 450),
    Target("worker, one", "≤ 600 µs", lambda row: row.cpu_us["worker"] <= 600),
    Target("worker, batches", "≤ 250 µs", lambda row: row.cpu_us["worker"] <= 250),
    Target("webhook → socket, 300", "p99 ≤ 25 ms", lambda row: row.latency_ms[2] <= 25 and not row.figures["missing"]),
    Target("webhook → socket", "none missing", lambda row: not row.figures["missing"]),
    Target("fan-out", "≥ 40,000/s, ≤ 25 KB", lambda row: row.per_second >= 40_000 and row.figures["KB a socket"] <= 25),
    Target("memory", "≤ 150 MB", lambda row: row.figures["MB"] <= 150),
)


def _cpu(row: Row, microseconds: float) -> bool:
    return row.cpu_us["api"] <= microseconds


def rows_of(samples: Sequence[Sample]) -> list[Row]:
    """In the order in which scenarios were first met."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.row, []).append(sample)
    rows = [_row(name, found) for name, found in sorted(by_name.items(), key=lambda item: _place(item[0]))]
    floor = next((row for row in rows if row.name == FLOOR), None)
    for row in rows:
        if row.name == INGEST and floor is not None:
            row.ratio_to_floor = row.cpu_us["api"] / floor.cpu_us["api"]
        target = next((target for target in TARGETS if row.name.startswith(target.row)), None)
        if target is not None:
            row.target, row.met = target.words, target.is_met(row)
    return rows


def _place(name: str) -> tuple[int, str]:
    order = (
        "memory",
        "initiate, jwt, 1 ",
        "initiate, key, 1 ",
        "initiate, jwt, 32",
        "initiate, key, 32",
        "initiate, jwt, 100 at once, provider 0",
        "initiate, jwt, 100 at once, provider 50",
        "initiate, jwt",
        "initiate",
        "idempotent",
        FLOOR,
        "webhook ingest",
        "worker, one",
        "worker",
        "webhook → socket, 20 ",
        "webhook → socket, 100",
        "webhook → socket",
        "fan-out to 1000 ",
        "fan-out",
    )
    return next(place for place, start in enumerate((*order, "")) if name.startswith(start)), name


def _row(name: str, samples: Sequence[Sample]) -> Row:
    def over(value: Callable[[Sample], float]) -> float:
        return middle([value(sample) for sample in samples])

    own = [sample.cpu_us.get("api", 0.0) + sample.cpu_us.get("worker", 0.0) for sample in samples]
    return Row(
        name=name,
        rounds=len(samples),
        per_second=over(lambda sample: sample.operations / sample.seconds if sample.seconds else 0.0),
        latency_ms=[
            over(lambda sample, place=place: sample.latency_ms[place]) for place in range(len(samples[0].latency_ms))
        ],  # type: ignore[misc]
        cpu_us={group: over(lambda sample, group=group: sample.cpu_us[group]) for group in samples[0].cpu_us},  # type: ignore[misc]
        figures={key: over(lambda sample, key=key: sample.figures[key]) for key in samples[0].figures},  # type: ignore[misc]
        calibration_ms=over(lambda sample: sample.calibration_ms),
        elsewhere=over(lambda sample: sample.elsewhere),
        steal=over(lambda sample: sample.steal),
        own_cpu_us_range=[min(own), max(own)],
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table for `docs/performance.md`."""
    heads = [
        "path",
        "a second",
        "p50 / p95 / p99 ms",
        "API µs",
        "worker µs",
        "PostgreSQL µs",
        "Redis µs",
        "RabbitMQ µs",
    ]
    heads += ["× floor", "target", "met"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [
            row.name + _figures(row),
            rate(row.per_second) if row.per_second else "",
            " / ".join(f"{value:.1f}" for value in row.latency_ms),
            *(_microseconds(row, group) for group in GROUPS),
            f"{row.ratio_to_floor:.2f}" if row.ratio_to_floor else "",
            row.target,
            {True: "yes", False: "**no**", None: ""}[row.met],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(row: Row) -> str:
    shown = [f"{value:,.1f} {key}" for key, value in row.figures.items() if key in ("MB", "KB a socket")]
    return f" ({', '.join(shown)})" if shown else ""


def _microseconds(row: Row, group: str) -> str:
    value = row.cpu_us.get(group)
    if value is None or value < 0.05:
        return ""
    return f"{value:,.0f}" if value >= 20 else f"{value:,.1f}"


def unchanged_throughput(rows: Sequence[Row]) -> str:
    """What a slow provider costs at 100 at once, against one that answers at once."""
    named = {row.name: row for row in rows}
    fast = named.get("initiate, jwt, 100 at once, provider 0 ms")
    slow = named.get("initiate, jwt, 100 at once, provider 100 ms")
    if fast is None or slow is None:
        return ""
    return (
        f"100 at once, provider 100 ms against 0 ms: {slow.per_second / fast.per_second:.2f} of the requests a second, "
        f"p95 {slow.latency_ms[1]:.0f} ms (target: under 250 ms, throughput unchanged)."
    )


def conditions(rows: Sequence[Row], versions: Mapping[str, str], loads: Sequence[float]) -> dict[str, Any]:
    measured = [row for row in rows if row.calibration_ms]
    return {
        "rounds": middle([row.rounds for row in measured]),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "system": platform.system(),
        **versions,
        "calibration_ms": round(middle([row.calibration_ms for row in measured]), 1),
        "calibration_range_ms": [
            round(min((row.calibration_ms for row in measured), default=0), 1),
            round(max((row.calibration_ms for row in measured), default=0), 1),
        ],
        "cores_busy_elsewhere": round(middle([row.elsewhere for row in measured]), 2),
        "cores_stolen": round(middle([row.steal for row in measured]), 2),
        "load_average_before_and_after": [round(value, 2) for value in loads],
    }


def footnote(about: Mapping[str, Any]) -> str:
    """What a reader must know to compare these figures with others."""
    low, high = about["calibration_range_ms"]
    return (
        f"Medians of {about['rounds']:.0f} rounds. "
        f"Processor time per operation, of each kind of process apart. {about['cpus']} CPUs shared with the servers "
        f"and the load generator; Python {about['python']}, PostgreSQL {about['postgres']}, Redis {about['redis']}, RabbitMQ "
        f"{about['rabbitmq']}. Calibration loop {about['calibration_ms']} ms ({low} to {high}); "
        f"{about['cores_busy_elsewhere']} cores were busy with other things, {about['cores_stolen']} were stolen."
    )


def write(rows: Sequence[Row], samples: Sequence[Sample], about: Mapping[str, Any], kind: str) -> Path:
    """`results/<UTC date and time>-<cpus>cpu-<kind>.json`; nothing in it names the machine."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%dT%H%M}Z-{os.cpu_count()}cpu-{kind}.json"
    value = {
        "at": now.isoformat(timespec="seconds"),
        "kind": kind,
        "conditions": about,
        "rows": [asdict(row) for row in rows],
        "samples": [asdict(sample) for sample in samples],
    }
    path.write_text(json.dumps(_rounded(value), indent=1, ensure_ascii=False) + "\n")
    return path


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
