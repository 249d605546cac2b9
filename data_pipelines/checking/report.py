"""What ``data_pipelines.check`` has to say: a table, and the same as JSON."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from itertools import groupby
from operator import iadd
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from data_pipelines.checking.inspecting import NOTES, PROBLEMS, Findings
from data_pipelines.progress import table_console
from data_pipelines.union14m.catalogue import CATALOGUE, Place

_ALWAYS = ("missing", "unreadable", "empty", "vertical", "too_long", "outside_charset")
_CHARACTERS = 20  # characters outside the charset that are printed


@dataclass
class SetReport:
    """What was found in one word set at one place, whose files list ``refused`` records that are none."""

    place: Place
    refused: int
    findings: Findings

    @property
    def name(self) -> str:
        """The names of the collection and the set."""
        return f"{self.place.collection.name}/{self.place.word_set.name}"

    @property
    def status(self) -> str:
        """How the count compares with the catalogue's. Lines that are no record do not make a set a sample."""
        status = self.place.word_set.compare(self.findings.records)
        if status == "sample" and self.place.word_set.compare(self.findings.records + self.refused) != "sample":
            return "damaged"
        return status


@dataclass
class Report:
    """What was found in all sets under ``root``, what else is there, and how long it took."""

    root: Path
    sets: list[SetReport]
    extra: list[str]
    seconds: float

    @cached_property
    def found(self) -> Findings:
        """What was found in all sets together."""
        return reduce(iadd, (report.findings for report in self.sets), Findings(listed=0))

    def print(self) -> None:
        """Print a line a set with counts, then the listed offenders, then what is absent, extra, or a sample."""
        console = table_console()
        console.print(self._table())
        tell = partial(console.out, highlight=False)
        for report in self.sets:
            _list_offenders(report, tell)
        samples = sum(report.status == "sample" for report in self.sets)
        if samples:
            tell(f"{samples} of {len(self.sets)} sets have fewer records than the catalogue says: a sample or a part.")
        for name, counts in self._totals().items():
            if counts["records"] != counts["expected"]:
                tell(f"{name}: {counts['records']:,} records in all; the full collection has {counts['expected']:,}")
        whole = {collection.name: len(collection.sets) for collection in CATALOGUE}
        for name, missing in self._absent().items():
            tell(f"absent: {name}: {', '.join(missing) if len(missing) < whole[name] else 'all of it'}")
        if self.extra:
            rest = f", and {len(self.extra) - 20} more" if len(self.extra) > 20 else ""
            tell(f"extra, not checked: {', '.join(self.extra[:20])}{rest}")
        images = self.found.images
        tell(f"{images:,} images decoded in {self.seconds:,.1f} s ({images / self.seconds:,.0f} a second)")
        tell(f"{self.found.problems:,} problems")

    def _table(self) -> Table:
        kinds = [kind for kind in (*PROBLEMS, *NOTES) if kind in _ALWAYS or self.found.counts[kind]]
        table = Table(title=Text(str(self.root)), title_justify="left")
        table.add_column("set", overflow="fold")
        for column in ("records", "expected", *(kind.replace("_", " ") for kind in kinds)):
            table.add_column(column, justify="right")
        table.add_column("status")
        names = Counter(report.name for report in self.sets)
        for collection, sets in groupby(self.sets, key=lambda report: report.place.collection.name):
            table.add_section()
            table.add_row(f"[bold]{collection}")
            for report in sets:
                expected = report.place.word_set.expected
                counts = (report.findings.counts[kind] for kind in kinds)
                where = f" in {report.place.paths[0]}" if names[report.name] > 1 else ""
                table.add_row(
                    Text(f"  {report.place.word_set.name}{where}"),
                    f"{report.findings.records:,}",
                    "" if expected is None else f"{expected:,}",
                    *(f"{count:,}" if count else "-" for count in counts),
                    "" if report.status == "unknown" else report.status,
                )
        return table

    def as_json(self) -> dict[str, Any]:
        """All that was found, as one JSON object."""
        return {
            "root": str(self.root),
            "images": self.found.images,
            "problems": self.found.problems,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.found.images / self.seconds, 1),
            "sets": [_set_as_json(report) for report in self.sets],
            "totals": self._totals(),
            "absent": self._absent(),
            "extra": self.extra,
            "meaning": PROBLEMS | NOTES,
        }

    def _absent(self) -> dict[str, list[str]]:
        """Sets of the catalogue that are not there, by collection; none where nothing of it was looked at."""
        present = {report.name for report in self.sets}
        absent = {c.name: [s.name for s in c.sets if f"{c.name}/{s.name}" not in present] for c in CATALOGUE}
        nothing = all(len(absent[collection.name]) == len(collection.sets) for collection in CATALOGUE)
        return {} if nothing else {name: sets for name, sets in absent.items() if sets}

    def _totals(self) -> dict[str, dict[str, int]]:
        """Counts of collections of which all parts were found and only the total is known."""
        absent, totals = self._absent(), {}
        for collection in CATALOGUE:
            # A set that is there in several forms counts once.
            mine = sorted((r.name, r.findings.records) for r in self.sets if r.place.collection is collection)
            if mine and collection.total is not None and collection.name not in absent:
                totals[collection.name] = {"records": sum(dict(mine).values()), "expected": collection.total}
        return totals


def _set_as_json(report: SetReport) -> dict[str, Any]:
    findings = report.findings
    return {
        "collection": report.place.collection.name,
        "set": report.place.word_set.name,
        "kind": report.place.kind,
        "paths": list(report.place.paths),
        "records": findings.records,
        "expected": report.place.word_set.expected,
        "status": report.status,
        "images": findings.images,
        "problems": {kind: findings.counts[kind] for kind in PROBLEMS},
        "notes": {kind: findings.counts[kind] for kind in NOTES},
        "unreadable_because": dict(findings.reasons.most_common()),
        "characters_outside_charset": dict(findings.characters.most_common()),
        "offenders": {kind: [one._asdict() for one in offenders] for kind, offenders in findings.offenders.items()},
    }


def _list_offenders(report: SetReport, tell: Callable[[str], None]) -> None:
    findings, title = report.findings, report.name
    for kind, meaning in (PROBLEMS | {"cut_off": NOTES["cut_off"]}).items():
        if findings.counts[kind]:
            tell(f"{title}: {findings.counts[kind]:,} {kind.replace('_', ' ')}: {meaning}")
            if kind == "unreadable":
                for reason, count in findings.reasons.most_common(10):
                    tell(f"  {count:,} times: {reason}")
            offenders = findings.offenders.get(kind, [])
            for name, detail in offenders:  # messages about files name them already
                tell(f"  {detail}" if name in detail else f"  {name}: {detail}")
            if 0 < findings.listed == len(offenders) < findings.counts[kind]:
                tell("  ...")
    if findings.characters:
        common = ", ".join(f"{c!r} {n:,}" for c, n in findings.characters.most_common(_CHARACTERS))
        tell(f"{title}: characters outside the charset ({len(findings.characters):,}): {common}")
