"""Which pairs of a table's rows are compared, as it was declared."""

from collections.abc import Sequence
from dataclasses import dataclass

from algorithms.common.evaluation.inference.comparisons import against, all_pairs

from .results_read import ReportError
from .tables import Row


@dataclass(frozen=True)
class Family:
    """The pairs that are declared, of rows by their labels."""

    one: str | None                             # the row that the others are compared with; None: all pairs
    more: tuple[tuple[str, str], ...] = ()      # beside them

    @property
    def rows(self) -> list[str]:
        """Without which it is not what was declared."""
        named = [self.one, *(row for pair in self.more for row in pair)]
        return list(dict.fromkeys(row for row in named if row is not None))

    def of(self, labels: Sequence[str]) -> list[tuple[str, str]]:
        """Each two rows once, or the adjustment would pay for them twice."""
        declared = against(self.one, labels) if self.one else [(second, first) for first, second in all_pairs(labels)]
        found: dict[frozenset[str], tuple[str, str]] = {}
        for pair in [*declared, *self.more]:
            found.setdefault(frozenset(pair), pair)
        return list(found.values())

    @property
    def words(self) -> str:
        if self.one is None:
            return "all pairs of rows"
        return ", ".join([f"each row with {self.one}", *(f"{first} with {second}" for first, second in self.more)])


def family_of(rows: Sequence[Row], one: str | None, pairs: Sequence[tuple[str, str]] | None, strict: bool) -> Family:
    """one, pairs: as in ``Declared``. ReportError for a name that more than one row goes by, or none where `strict`."""
    first = None if one in (None, "all") else _label(rows, one, "family", "--family ROW", strict)
    more = tuple(tuple(_label(rows, name, "pairs", "--pair ROW ROW", strict) for name in pair) for pair in pairs or ())
    return Family(first, more)


def _label(rows: Sequence[Row], name: str, key: str, option: str, strict: bool) -> str:
    """The label of the row that a label, or the name of its method, stands for; the name where no row has it."""
    found = [row.label for row in rows if row.label == name] or [row.label for row in rows if row.algorithm == name]
    if not found and not strict:
        return name
    if len(found) != 1:
        others = "all, or one of" if key == "family" else "one of"
        raise ReportError(f"report.{key}: found {name!r}, which names {len(found)} rows; expected {others} "
                          f"{'; '.join(row.label for row in rows)}; fix: python -m benchmarks.report FOLDER… {option}")
    return found[0]
