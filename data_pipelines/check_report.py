"""What ``data_pipelines.check`` has to say: a table, and the same as JSON."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data_pipelines.inspecting import NOTES, PROBLEMS, Findings
from data_pipelines.union14m.catalogue import CATALOGUE, Collection, Place

_ALWAYS = ("missing", "unreadable", "empty", "vertical", "too_long", "outside_charset")
_NARROWEST = 200  # columns of a table that is not printed to a terminal
_CHARACTERS = 20  # characters outside the charset that are printed


@dataclass
class SetReport:
    """What was found in one word set at one place."""

    place: Place
    """The set and its files."""
    records: int
    """How many records its files list."""
    refused: int
    """How many lines or entries of its files are no record."""
    findings: Findings
    """What is wrong with them."""

    @property
    def name(self) -> str:
        """The names of the collection and the set."""
        return f"{self.place.collection.name}/{self.place.word_set.name}"

    @property
    def status(self) -> str:
        """How the count compares with the catalogue's. Lines that are no record do not make a set a sample."""
        status = self.place.word_set.compare(self.records)
        if status == "sample" and self.place.word_set.compare(self.records + self.refused) != "sample":
            return "damaged"
        return status


def print_report(root: Path, reports: Sequence[SetReport], extra: Sequence[str], seconds: float) -> None:
    """Print a line a set with counts, then the listed offenders, then what is absent, extra, or a sample."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, _NARROWEST))
    kinds = [k for k in (*PROBLEMS, *NOTES) if k in _ALWAYS or any(report.findings.counts[k] for report in reports)]
    table = Table(title=Text(str(root)), title_justify="left")
    table.add_column("set", overflow="fold")
    for column in ("records", "expected", *(kind.replace("_", " ") for kind in kinds), ""):
        table.add_column(column, justify="right" if column else "left")
    names = Counter(report.name for report in reports)
    for collection, sets in groupby(reports, key=lambda report: report.place.collection.name):
        table.add_section()
        table.add_row(f"[bold]{collection}")
        for report in sets:
            expected = report.place.word_set.expected
            counts = (report.findings.counts[kind] for kind in kinds)
            where = f" in {report.place.paths[0]}" if names[report.name] > 1 else ""
            table.add_row(
                Text(f"  {report.place.word_set.name}{where}"),
                f"{report.records:,}",
                "" if expected is None else f"{expected:,}",
                *(f"{count:,}" if count else "-" for count in counts),
                "" if report.status == "unknown" else report.status,
            )
    console.print(table)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    for report in reports:
        _list_offenders(report, say)
    samples = sum(report.status == "sample" for report in reports)
    if samples:
        say(f"{samples} of {len(reports)} sets have fewer records than the catalogue says: a sample or a part.")
    for collection, found, total in _totals(reports):
        if found != total:
            say(f"{collection.name}: {found:,} records in all; the full collection has {total:,}")
    whole = {collection.name: len(collection.sets) for collection in CATALOGUE}
    for name, missing in _absent(reports).items():
        say(f"absent: {name}: {', '.join(missing) if len(missing) < whole[name] else 'all of it'}")
    if extra:
        rest = f", and {len(extra) - 20} more" if len(extra) > 20 else ""
        say(f"extra, not looked into: {', '.join(extra[:20])}{rest}")
    images, problems = _sums(reports)
    rate = images / seconds if seconds else 0.0
    say(f"{images:,} images decoded in {seconds:,.1f} s ({rate:,.0f} a second); {problems:,} problems")


def report_as_json(root: Path, reports: Sequence[SetReport], extra: Sequence[str], seconds: float) -> dict[str, Any]:
    """All that was found, as one JSON object."""
    images, problems = _sums(reports)
    return {
        "root": str(root),
        "images": images,
        "problems": problems,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 1) if seconds else None,
        "sets": [_set_as_json(report) for report in reports],
        "totals": {c.name: {"records": found, "expected": total} for c, found, total in _totals(reports)},
        "absent": _absent(reports),
        "extra": list(extra),
        "meaning": PROBLEMS | NOTES,
    }


def _set_as_json(report: SetReport) -> dict[str, Any]:
    findings = report.findings
    return {
        "collection": report.place.collection.name,
        "set": report.place.word_set.name,
        "kind": report.place.kind,
        "paths": list(report.place.paths),
        "records": report.records,
        "expected": report.place.word_set.expected,
        "status": report.status,
        "images": findings.images,
        "problems": {kind: findings.counts[kind] for kind in PROBLEMS},
        "notes": {kind: findings.counts[kind] for kind in NOTES},
        "unreadable_because": dict(findings.reasons.most_common()),
        "characters_outside_charset": dict(findings.characters.most_common()),
        "offenders": {
            kind: [offender._asdict() for offender in offenders] for kind, offenders in findings.offenders.items()
        },
    }


def _list_offenders(report: SetReport, say: Callable[[str], None]) -> None:
    findings, title = report.findings, report.name
    for kind, meaning in (PROBLEMS | {"cut_off": NOTES["cut_off"]}).items():
        if findings.counts[kind]:
            say(f"{title}: {findings.counts[kind]:,} {kind.replace('_', ' ')}: {meaning}")
            if kind == "unreadable":
                for reason, count in findings.reasons.most_common(10):
                    say(f"  {count:,} times: {reason}")
            offenders = findings.offenders.get(kind, [])
            for offender in offenders:
                # Messages about files name them already.
                name = "" if offender.name in offender.detail else f"{offender.name}: "
                say(f"  {name}{offender.detail}")
            if 0 < findings.listed == len(offenders) < findings.counts[kind]:
                say("  ...")
    if findings.characters:
        common = ", ".join(f"{c!r} {n:,}" for c, n in findings.characters.most_common(_CHARACTERS))
        say(f"{title}: characters outside the charset ({len(findings.characters):,}): {common}")


def _absent(reports: Sequence[SetReport]) -> dict[str, list[str]]:
    """Sets of the catalogue that are not there, by collection; none where nothing of it was looked at."""
    present = {(report.place.collection.name, report.place.word_set.name) for report in reports}
    if not present & {(c.name, s.name) for c in CATALOGUE for s in c.sets}:
        return {}
    absent = {c.name: [s.name for s in c.sets if (c.name, s.name) not in present] for c in CATALOGUE}
    return {name: sets for name, sets in absent.items() if sets}


def _totals(reports: Sequence[SetReport]) -> list[tuple[Collection, int, int]]:
    """Collections of which all parts were found and only the total is known, with both counts."""
    absent, totals = _absent(reports), []
    for collection in CATALOGUE:
        there = any(report.place.collection.name == collection.name for report in reports)
        if collection.total is not None and there and collection.name not in absent:
            # A set that is there in several forms counts once.
            records: dict[str, int] = {}
            for report in reports:
                if report.place.collection.name == collection.name:
                    records[report.name] = max(records.get(report.name, 0), report.records)
            found = sum(records.values())
            totals.append((collection, found, collection.total))
    return totals


def _sums(reports: Sequence[SetReport]) -> tuple[int, int]:
    return sum(report.findings.images for report in reports), sum(report.findings.problems for report in reports)
