"""A data source made of others (``data=mixture``): training records in stated proportions, held-out records united.

Every set of training records (preferences, demonstrations, prompts) is mixed by itself, of the sources that have it:
source i gives weight_i / Σ weight of `total` records, as whole numbers (largest remainder), drawn without replacement.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ...support.checks import at_least, require
from ...support.errors import ConfigError, DataError, UserError
from ...support.seeds import permutation
from .derived import merged
from .mixing import quotas
from .record import Record, prompt_hash
from .reports import added
from .sets import HELD_OUT, TRAINING, DataSets, FileData, Measure
from .storage import Records
from .told import SHOWN, LoadReport, record_kind

log = logging.getLogger(__name__)

ELSEWHERE = "prompt held out elsewhere"
COUNTS = ("read", "kept", "held_out_elsewhere", "evaluated_elsewhere", "drawn", "repeated")


@dataclass
class Mixture:
    """Data sources by name, each ``{data: its config, weight: its share}``.

    weight: not negative, 1 where it is left out; only ratios matter. A source of weight 0 is not trained on: of files
    all of it is evaluated, or where they have such the files or the split that are; of a mixture all of its sources.
    total: records drawn of every training set; null: the most for which no source is repeated, min n_i / p_i. Only a
    larger total repeats a source (no record again before all have come), and that is counted and said.
    """

    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    total: int | None = None

    in_trial: ClassVar[dict[str, int]] = {"total": 256}

    def __post_init__(self):
        for name, source in self.sources.items():
            _check_source(f"data.sources.{name}", source)
        if self.sources and not any(self.weights.values()):
            raise ConfigError("data.sources: found the weight 0 for every source; expected one above 0")
        require(self, "data", total=at_least(1).or_null())

    @property
    def weights(self) -> dict[str, float]:
        """Each source's weight, as configured."""
        return {name: source.get("weight", 1.0) for name, source in self.sources.items()}

    def load(self, seed: int) -> DataSets:
        """The mixed sets; `seed` draws the training records. Every record's ``meta["origin"]`` is its source's name.

        Evaluation, held-out and tuning records and questions of all sources are united, one of each source in turn; a
        prompt that two sources evaluate stays with the first. A training prompt of a conversation that another source
        holds out is left out, and counted. The gold reward is kept where all sources have the same.
        """
        if not self.sources:
            raise ConfigError("data.sources: found none; expected at least one; fix: "
                              "'+data.sources.NAME={weight: 1.0, data: {…}}', or +data@data.sources.NAME.data=CHOICE")
        parts = {name: _load(name, source["data"] if self.weights[name] else _evaluated_whole(source["data"]), seed)
                 for name, source in self.sources.items()}
        _evaluate_once(parts)
        _separate(parts)
        united = {name: _united(parts, name) for name in HELD_OUT}
        asked = {name: part for name, part in parts.items() if part.data.choices is not None}
        mixed = {name: self._mixed(parts, name, seed) for name in TRAINING}
        golds = [part.data.gold for part in parts.values()]
        measures = {name: part.data.measure for name, part in parts.items() if part.data.measure is not None}
        if any(golds) and not _same(golds):
            log.warning("gold: the sources differ in it; the mixture has none")
        audited = {name: part for name, part in parts.items() if part.data.audit is not None}
        return DataSets(**mixed, **united, report=_report(parts), gold=golds[0] if _same(golds) else None,
                        choices=_united(asked, "choices") if asked else None,
                        audit=_united(audited, "audit") if audited else None,
                        measure=MeasureByOrigin(measures) if measures else None,
                        on_bad_row=max((part.data.on_bad_row for part in parts.values()), key=("drop", "error").index))

    def _mixed(self, parts: dict[str, "_Part"], name: str, seed: int) -> Records:
        """One training set: each source's quota, the sources shuffled among each other."""
        sets = {source: getattr(part.data, name) for source, part in parts.items()}
        given = [source for source, records in sets.items() if len(records) and self.weights[source]]
        counts = dict.fromkeys(parts, 0) | self._quotas({source: len(sets[source]) for source in given})
        if given:
            told = [f"{counts[source]} of {len(sets[source])} from {source}" for source in given]
            without = [source for source in parts if self.weights[source] and source not in given]
            log.info("%s: %s%s", name, ", ".join(told), f"; none in {', '.join(without)}" if without else "")
        for source, count in counts.items():
            self._count_drawn(name, source, parts[source].counts, count, len(sets[source]))
        drawn = {source: sets[source].select(_draw(len(sets[source]), counts[source], seed, name, source))
                 for source in given}
        order = np.repeat(np.arange(len(drawn)), [len(records) for records in drawn.values()])
        return _merged(drawn, order[permutation(len(order), seed, "mixture", name)])

    def _quotas(self, sizes: dict[str, int]) -> dict[str, int]:
        """How many records each of the sources gives that have so many of a set, and a weight."""
        if not sizes:
            return {}
        weights = [self.weights[source] for source in sizes]
        total = largest_total(weights, list(sizes.values())) if self.total is None else self.total
        return dict(zip(sizes, quotas(weights, total)))

    def _count_drawn(self, name: str, source: str, counts: dict[str, int], drawn: int, size: int):
        """Enter into a source's counts what it gives of a training set, and say where that repeats its records."""
        repeated = max(drawn - size, 0)
        if repeated:
            log.warning("%s: %s repeats %d of its %d records to give %d (data.total=%d)", name, source, repeated, size,
                        drawn, self.total)
        counts[name] = drawn
        counts[f"{name}_available"] = size
        counts["drawn"] += drawn
        counts["repeated"] += repeated


@dataclass(frozen=True)
class MeasureByOrigin:
    """Asks the source that a record came from what its response shows; nothing where that source measures nothing."""

    measures: dict[str, Measure]

    def __call__(self, record: Record, response: str, finished: bool) -> dict[str, float]:
        measure = self.measures.get(record.meta["origin"])
        return {} if measure is None else measure(_as_before(record), response, finished)


def largest_total(weights: list[float], sizes: list[int]) -> int:
    """The most records that can be drawn in these proportions without drawing one twice: ⌊min n_i / p_i⌋."""
    exact = [Fraction(str(weight)) for weight in weights]
    return int(min(size * sum(exact) / weight for size, weight in zip(sizes, exact, strict=True)))


@dataclass
class _Part:
    """One source's sets, its report and its counts in the mixture."""

    data: DataSets
    report: LoadReport
    counts: dict[str, int] = field(default_factory=partial(dict.fromkeys, COUNTS, 0))


def _load(name: str, source: Any, seed: int) -> _Part:
    log.info("source %s (its keys data.… are data.sources.%s.data.… here):", name, name)
    try:
        data = source.load(seed)
    except UserError as error:
        told = f"{error}\n(in the source {name}: its keys data.… are data.sources.{name}.data.… here)"
        raise (DataError(told, error.refused) if isinstance(error, DataError) else type(error)(told)) from None
    return _Part(replace(data), replace(data.report))


def _evaluated_whole(source: Any) -> Any:
    """A source of which nothing is trained on, as one that holds all of its files out. What it evaluates of its own
    (a file, a split) stays what is evaluated."""
    if isinstance(source, FileData):
        return replace(source, heldout=1.0)
    if isinstance(source, Mixture):
        whole = {name: {**inner, "data": _evaluated_whole(inner["data"])} for name, inner in source.sources.items()}
        return replace(source, sources=whole)
    return source


def _check_source(key: str, source: Any):
    if not isinstance(source, Mapping):
        raise ConfigError(f"{key}: found {source!r}; expected {{weight: 1.0, data: {{…}}}}")
    if unknown := sorted(map(str, source.keys() - {"data", "weight"})):
        raise ConfigError(f"{key}.{unknown[0]}: found no such key; expected one of data, weight")
    if "data" not in source:
        raise ConfigError(f"{key}.data: found none; expected a data source's config; fix: +data@{key}.data=CHOICE")
    if not hasattr(source["data"], "load"):
        raise ConfigError(f"{key}.data: found {str(source['data'])[:60]!r}; expected a data source's config, with its "
                          "_target_")
    weight = source.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ConfigError(f"{key}.weight: found {weight!r}; expected a number from 0")


# ---- no prompt on two sides


def _evaluate_once(parts: dict[str, _Part]):
    """Leave evaluated prompts to the first source that has them."""
    for name in ("evaluation", "tuning"):
        seen = np.empty(0, np.uint64)
        for part in parts.values():
            records = getattr(part.data, name)
            hashes = records.prompt_hashes
            kept = ~np.isin(hashes, seen)
            part.counts["evaluated_elsewhere"] += int(np.count_nonzero(~kept))
            setattr(part.data, name, records.where(kept))
            seen = np.union1d(seen, hashes)


def _separate(parts: dict[str, _Part]):
    """Leave out what would put a conversation that one source holds out among another's training or tuning records, or
    one that it sets aside for the auditor among another's training records.
    """
    sets = {name: [getattr(part.data, held) for held in (*HELD_OUT, "choices")] for name, part in parts.items()}
    audits = {name: [part.data.audit] for name, part in parts.items()}
    for name, part in parts.items():
        held = _hashes(records for other in parts if other != name for records in sets[other])
        audited = _hashes(records for other in parts if other != name for records in audits[other])
        seen: set[tuple] = set()
        for set_name in (*TRAINING, "tuning", "audit"):
            records = getattr(part.data, set_name)
            if records is None:
                continue
            begun = records.array("root_hash")
            clash = np.isin(begun, held) | (np.isin(begun, audited) if set_name in TRAINING else False)
            if clash.any():
                _count_removed(name, part, set_name, records.where(clash), seen)
                setattr(part.data, set_name, records.where(~clash))
        part.counts |= {"read": part.report.read, "kept": part.report.kept, "held_out_elsewhere":
                        part.report.dropped.get(ELSEWHERE, 0)}
        if seen:
            log.warning("%s: left out %d records, whose prompts another source holds out", name,
                        part.counts["held_out_elsewhere"])


def _hashes(sets: Iterable[Records | None]) -> np.ndarray:
    """(n,) ascending: where the conversations of all sets begin, see ``record.root_hash``."""
    hashes = [records.array("root_hash") for records in sets if records is not None]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))


def _count_removed(name: str, part: _Part, set_name: str, removed: Records, seen: set[tuple]):
    """A record read from a file counts once, in however many sets it lies;
    one made of it, with its line and prompt, does not.

    Made are the sets that the report's fallbacks name and records of a kind that the report does not have.
    """
    report = part.report
    dropped, kinds = dict(report.dropped), dict(report.kinds)
    lines = {reason: list(shown) for reason, shown in report.lines.items()}
    shown = lines.setdefault(ELSEWHERE, [])
    for record in removed:
        source, line = record.meta.get("source"), record.meta.get("line")
        if line is None:
            seen.add((len(seen),))
        else:
            origin = source, line, prompt_hash(record.prompt)
            made = set_name in report.fallbacks or record_kind(record) not in kinds
            identity = origin if made else (*origin, record.key)
            if identity in seen:
                continue
            seen |= {origin, identity}
        dropped[ELSEWHERE] = dropped.get(ELSEWHERE, 0) + 1
        place = name if line is None else f"{source}:{line}"
        if len(shown) < SHOWN and place not in shown:
            shown.append(place)
        if (kind := record_kind(record)) in kinds:
            kinds[kind] -= 1
        report.kept -= 1
        report.strict_pairs -= len(record.strict_pairs)
    if not shown:
        del lines[ELSEWHERE]
    report.dropped, report.lines, report.kinds = dropped, lines, kinds


# ---- drawing and joining


def _draw(size: int, count: int, seed: int, name: str, source: str) -> np.ndarray:
    """(count,) ascending indices: a seeded permutation over and over, so that none comes again before all have come."""
    return np.sort(np.resize(permutation(size, seed, "mixture", name, source), count))


def _merged(sources: Mapping[str, Records], order: np.ndarray) -> Records:
    """The sources' records, each in its own order; `order[i]` says which source gives the i-th."""
    return merged(list(sources.values()), order, [partial(_marked, name=name) for name in sources])


def _united(parts: dict[str, _Part], name: str) -> Records:
    """All records of a held-out set, one of each source in turn."""
    sets = {part: getattr(parts[part].data, name) for part in parts}
    for part, records in sets.items():
        parts[part].counts[name] = len(records)
    turn = np.concatenate([np.arange(len(records)) for records in sets.values()])
    source = np.repeat(np.arange(len(sets)), [len(records) for records in sets.values()])
    return _merged(sets, source[np.lexsort((source, turn))])


def _marked(meta: dict, name: str) -> dict:
    """A record's meta with its source as origin; an origin it had before stays under "inner"."""
    inner = {key: meta[key] for key in ("origin", "inner") if key in meta}
    kept = {key: value for key, value in meta.items() if key not in inner}
    return kept | {"origin": name} | ({"inner": inner} if inner else {})


def _as_before(record: Record) -> Record:
    """A marked record as its source gave it."""
    meta = {key: value for key, value in record.meta.items() if key not in ("origin", "inner")}
    return replace(record, meta=meta | record.meta.get("inner", {}))


def _same(golds: list) -> bool:
    return all(gold == golds[0] for gold in golds)


# ---- the report


def _report(parts: dict[str, _Part]) -> LoadReport:
    """The sources' reports added up; counts by source, and those of a source's own parts as SOURCE/PART."""
    told = {name: {key: f"{name}: {text}" for key, text in part.report.fallbacks.items()}
            for name, part in parts.items()}
    total = added(replace(part.report, fallbacks=told[name]) for name, part in parts.items())
    total.sources = {name: part.counts for name, part in parts.items()}
    total.sources |= {f"{name}/{inner}": counts for name, part in parts.items()
                      for inner, counts in part.report.sources.items()}
    return total
