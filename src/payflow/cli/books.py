"""How `payflow books` shows what a check of the books found."""

from payflow.core.clock import rfc3339
from payflow.ledger.books import Books

HEADINGS = ("", "what", "id", "expected", "found")


def books_table(books: Books) -> str:
    """A line for each break and warning, and one that sums up."""
    rows = [("BREAK", each.what, each.id, each.expected, each.found) for each in books.breaks]
    rows += [("warning", each.what, each.id, each.expected, each.found) for each in books.warnings]
    summary = (
        f"{books.entries} entries at {rfc3339(books.checked_at)}, checked in {books.seconds:.2f} s: "
        f"{books.breaks_found or 'no'} breaks, {books.warnings_found or 'no'} warnings."
    )
    if not rows:
        return summary
    widths = [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (HEADINGS, *rows)]
    return "\n".join([*(line.rstrip() for line in lines), summary])
