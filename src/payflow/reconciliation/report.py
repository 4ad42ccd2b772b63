"""The report of a reconciliation as a table, JSON or CSV, written while it is made."""

import csv
from collections.abc import AsyncIterator, Mapping
from typing import Any, TextIO

import orjson

from payflow.core.clock import rfc3339
from payflow.reconciliation.service import Difference, Summary

COLUMNS = (
    "kind", "about", "line", "reference", "provider_reference", "ours", "theirs", "transaction_id", "occurred_at",
)  # fmt: skip
WIDTHS = (14, 13, 7, 30, 30, 20, 20)
# What a spreadsheet takes for the beginning of a formula (owasp.org, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


async def write_report(form: str, out: TextIO, summary: Summary, found: AsyncIterator[Difference]) -> None:
    """`form` is table, json or csv. The CSV holds the differences alone."""
    await WRITERS[form](out, summary, found)


async def _table(out: TextIO, summary: Summary, found: AsyncIterator[Difference]) -> None:
    titled = False
    async for difference in found:
        if not titled:
            out.write(_columns(COLUMNS))
            titled = True
        out.write(_columns([_shown(value) for value in _row(difference).values()]))
    out.write(("\n" if titled else "") + "\n".join(totals(summary)) + "\n")


def _columns(cells: Any) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=False)).rstrip() + "\n"


def _shown(value: Any) -> str:
    """In one line: a file may hold signs that move a terminal's cursor."""
    text = "" if value is None else str(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text) or "-"


async def _json(out: TextIO, summary: Summary, found: AsyncIterator[Difference]) -> None:
    out.write('{"differences":[')
    between = ""
    async for difference in found:
        out.write(between + "\n" + orjson.dumps(_row(difference)).decode())
        between = ","
    out.write('\n],"summary":' + orjson.dumps(_summary(summary)).decode() + "}\n")


async def _csv(out: TextIO, summary: Summary, found: AsyncIterator[Difference]) -> None:
    rows = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    rows.writerow(COLUMNS)
    async for difference in found:
        rows.writerow([guarded(value) for value in _row(difference).values()])


def guarded(value: Any) -> str:
    """Text that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    return "'" + text if text.startswith(FORMULA) else text


def _row(difference: Difference) -> dict[str, Any]:
    return {
        "kind": difference.kind.value,
        "about": str(difference.about),
        "line": difference.line,
        "reference": difference.reference,
        "provider_reference": difference.provider_reference,
        "ours": difference.ours,
        "theirs": difference.theirs,
        "transaction_id": str(difference.transaction_id) if difference.transaction_id else None,
        "occurred_at": rfc3339(difference.occurred_at),
    }


def _summary(summary: Summary) -> Mapping[str, Any]:
    return {
        "provider": summary.provider,
        "file": summary.file,
        "from": rfc3339(summary.since),
        "to": rfc3339(summary.until),
        "lines": summary.lines,
        "agreed": summary.agreed,
        "repaired": summary.repaired,
        "outside": summary.outside,
        "not_ours": dict(sorted(summary.not_ours.items())),
        "differences": {kind.value: number for kind, number in sorted(summary.differences.items())},
        "clean": summary.clean,
    }


def totals(summary: Summary) -> list[str]:
    told = ", ".join(f"{number} {kind.value}" for kind, number in sorted(summary.differences.items()))
    lines = [
        f"{summary.file} ({summary.provider}), {rfc3339(summary.since)} to {rfc3339(summary.until)}",
        f"{summary.lines} lines: {summary.agreed} agree"
        + (f" ({summary.repaired} repaired)" if summary.repaired else ""),
        f"Differences: {told}." if told else "No differences.",
    ]
    if summary.outside:
        lines.insert(2, f"{summary.outside} outside of this time, not compared")
    if summary.not_ours:
        kinds = ", ".join(f"{number} {_shown(kind)}" for kind, number in sorted(summary.not_ours.items()))
        lines.insert(2, f"{summary.not_ours.total()} about no transaction: {kinds}")
    return lines


WRITERS = {"table": _table, "json": _json, "csv": _csv}
