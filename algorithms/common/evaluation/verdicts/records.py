"""What a verdict is, and the file that keeps them beside the runs they compare."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from ...support.errors import UserError, full_disk

FILE = "verdicts.parquet"
START, DATA = "start", "data"                       # what a run is compared with, besides other runs
OUTCOMES = ("left", "right", "tie", "none")         # none: the judge was asked and said nothing that can be read
ORDERS = ("both", "left_first", "right_first")      # both: the judge sees no order
_COLUMNS = pa.schema([
    *(pa.field(name, pa.string(), nullable=False)
      for name in ("prompt_id", "prompt", "left", "left_response", "right", "right_response", "outcome", "judge",
                   "order", "at")),
    pa.field("raw", pa.string()), pa.field("sample", pa.int64(), nullable=False),
    pa.field("left_score", pa.float64()), pa.field("right_score", pa.float64())])


@dataclass(frozen=True)
class Verdict:
    """Which of two answers to a prompt a judge calls better.

    left and right are names: a run, that is its folder's path from the folder of ``verdicts.parquet``; ``start``, what
    the left run's training began with; ``data``, the answer that the data prefers. A judge that sees the answers one
    after the other gives a verdict for each order that it was asked in; they are joined where they are read.
    """

    prompt_id: str
    prompt: str                     # as samples.parquet keeps it
    left: str
    left_response: str
    right: str
    right_response: str
    outcome: str                    # one of OUTCOMES
    judge: str
    order: str                      # one of ORDERS
    at: str                         # ISO 8601, UTC
    raw: str | None = None          # what the judge said
    sample: int = 0                 # which of a run's answers to the prompt it is about
    left_score: float | None = None     # of judges that score answers
    right_score: float | None = None

    def __post_init__(self):
        for key, allowed in (("outcome", OUTCOMES), ("order", ORDERS)):
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is {getattr(self, key)!r}; expected one of {', '.join(allowed)}")

    @property
    def asked(self) -> tuple:
        """What was judged, by whom and in which order: one verdict answers it."""
        return (self.judge, self.left, self.right, self.prompt_id, self.sample, self.left_response,
                self.right_response, self.order)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read(path: str | Path) -> list[Verdict]:
    """The verdicts of a file, in the order they were given; none where there is no file.

    UserError for a file that ``append`` did not write.
    """
    try:
        # not pq.read_table: a path with = in it is no partition
        with open(path, "rb") as file:
            rows = pq.ParquetFile(file).read().to_pylist()
        names = [field.name for field in fields(Verdict)]
        return [Verdict(**{name: row[name] for name in names}) for row in rows]
    except FileNotFoundError:
        return []
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}: found no such column; expected the verdicts that task=judge or "
                        "task=vote writes; fix: move the file away, and judge again") from error
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{path}: found what cannot be read ({' '.join(str(error).split())}); expected verdicts that "
                        "task=judge or task=vote writes; fix: move the file away, and judge again") from error


def append(path: str | Path, verdicts: Iterable[Verdict], once: bool = False) -> None:
    """Adds verdicts to a file, made if need be; once: not those that it has, whenever they were given. Writers wait
    for each other; a reader, or a kill at any moment, finds the old file or the new one. UserError where the disk is
    full."""
    path, added = Path(path), list(verdicts)
    if not added:
        return
    temporary = path.with_name(f".{path.name}.writing")
    with FileLock(path.with_name(f".{path.name}.lock")):
        kept = read(path)
        if once:
            there = {replace(one, at="") for one in kept}
            added = [one for one in added if replace(one, at="") not in there]
            if not added:
                return
        rows = [asdict(verdict) for verdict in [*kept, *added]]
        try:
            with open(temporary, "wb") as file:
                pq.write_table(pa.Table.from_pylist(rows, schema=_COLUMNS), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if full := full_disk(error, f"writing {path}", "earlier verdicts are intact", key=""):
                raise full from error
            raise
