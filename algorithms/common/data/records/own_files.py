"""Files of their own for some of a run's sets: what is read for each, and no evaluated prompt among the others.

    data.path=pairs.jsonl data.demonstrations_path=answers.csv data.evaluation_path=test.parquet
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...support.errors import DataError
from .loading import Loader
from .readers import EXTENSIONS
from .record import Record
from .reports import added, leave_out
from .shards import splits_of
from .storage import Records
from .told import LoadReport
from .views import Alike, roots

log = logging.getLogger(__name__)

REST = "data"                                                   # whatever has no file of its own
OWN = ("demonstrations", "comparisons", "prompts", "evaluation")     # in the order they are read in, evaluation last
OPTIONS = ("format", "encoding", "header", "quoting", "delimiter", "rows", "split", "columns", "template", "chat",
           "mapper", "group", "filter", "limit")                # what may be read differently in each
AUTO, TEST = "auto", "test"
EVALUATED = "prompt evaluated"


class Parts(NamedTuple):
    """All that was read, one part after the other: part → from which to before which of the records it has."""

    records: Records
    bounds: dict[str, tuple[int, int]]
    report: LoadReport

    def of(self, part: str, records: Records) -> Records:
        """Those of a selection of the records that are of a part: of its file, else of the rest; none where all files
        are those of other sets. Comparisons show what to imitate, too."""
        made_of = (part, REST, "comparisons") if part == "demonstrations" else (part, REST)
        first, end = next((self.bounds[one] for one in made_of if one in self.bounds), (0, 0))
        if (first, end) == (0, self.records.rows):
            return records
        rows = np.arange(self.records.rows) if records.indices is None else records.indices
        return records.where((rows >= first) & (rows < end))

    def without(self, left_out: np.ndarray, reason: str) -> "Parts":
        """Without the records at these ascending indices, which are counted under the reason."""
        leave_out(self.report, self.records.select(left_out), reason)
        kept = np.ones(len(self.records), bool)
        kept[left_out] = False
        return self._replace(records=self.records.where(kept))

    def training(self, alike: Alike | None = None) -> Records:
        """All but what is evaluated, and without its conversations: what that leaves out is counted and said."""
        if "evaluation" not in self.bounds:
            return self.records
        rows = np.arange(self.records.rows) if self.records.indices is None else self.records.indices
        others = self.records.where(rows < self.bounds["evaluation"][0])
        clash = np.isin(roots(others, alike), roots(self.of("evaluation", self.records), alike))
        left_out = leave_out(self.report, others.where(clash) if clash.any() else [], EVALUATED)
        if left_out:
            log.warning("left out %d records, whose prompts are evaluated (%s)", left_out,
                        self.report.places(EVALUATED))
        return others.where(~clash)


def read_parts(data: Any) -> Parts:
    """Read a FileData and the files that some of its sets have of their own."""
    parts, reports, bounds = parts_of(data), [], {}

    def rows() -> Iterator[Record]:
        start = 0
        for name, part in parts.items():
            loader: Loader = part.loader()
            end = start
            try:
                for end, record in enumerate(part.read_by(loader), start + 1):
                    yield record
            except DataError as error:
                raise _told_of(name, error) from None
            bounds[name], start = (start, end), end
            reports.append(loader.report)

    records = Records.from_list(rows())
    report = reports[0] if len(reports) == 1 else added(reports)
    report.own_files = {name: part.told() for name, part in parts.items() if name != REST}
    for name, path in report.own_files.items():
        log.info("%s: from %s alone", name, path)
    return Parts(records, bounds, report)


def check_own(data: Any, refuse: Callable[[str, str, str], None]) -> None:
    """Refuses data.reading where it says nothing of a file that there is."""
    own = [name for name in OWN if getattr(data, f"{name}_path")]
    for name, options in (data.reading or {}).items():
        if name not in own:
            refuse(f"reading.{name}", "no file of its own that this could be read from",
                   f"{' or '.join(own) or 'a set with its file'}; "
                   f"fix: data.{name if name in OWN else OWN[0]}_path=FILE")
        for key in options:
            if key not in OPTIONS:
                refuse(f"reading.{name}.{key}", "no such option", f"one of {', '.join(OPTIONS)}")


def parts_of(data: Any) -> dict[str, Any]:
    """Part → the FileData that reads it alone."""
    alone = {f"{name}_path": None for name in OWN} | {"reading": None, "evaluation_split": None}
    parts = {REST: replace(data, **alone)} if data.path or data.name else {}
    for name in OWN:
        if path := getattr(data, f"{name}_path"):
            parts[name] = replace(data, **alone, path=path, name=None) if not data.reading else \
                replace(data, **alone | {"path": path, "name": None} | dict(data.reading.get(name, {})))
    if "evaluation" not in parts and (split := _evaluated_split(data)):
        parts["evaluation"] = replace(data, **alone, split=split)
    return parts


def _evaluated_split(data: Any) -> str | None:
    """The split that is evaluated: the one named, or `test` of a folder on this machine that has one."""
    if data.evaluation_split != AUTO:
        return data.evaluation_split if data.path or data.name else None
    found = splits_of(data.path, EXTENSIONS if data.format is None else None) if isinstance(data.path, str) else ()
    return TEST if TEST in found and data.split != TEST else None


def _told_of(name: str, error: DataError) -> DataError:
    if name == REST:
        return error
    return DataError(f"{error}\n(in the file for {name}: where it is read otherwise than data.path, "
                     f"'data.reading={{{name}: {{OPTION: VALUE}}}}' says so)", error.refused)
