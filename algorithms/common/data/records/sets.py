"""The data of a run: named sets of records, and files as their source."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...support.checks import SHARE_BELOW_1, at_least, one_of, require
from ...support.errors import ConfigError
from .fields import FIELDS
from .kept import kept
from .labels import contradictions, repeated, repetitions
from .loading import Filter, Loader, Mapper
from .own_files import Parts, check_own, read_parts
from .readers import Hub, Source, check_delimiter, found_files
from .recognition import template_parts
from .record import Record
from .shards import grouped, is_saved
from .similar import SimilarRoots
from .storage import Records
from .told import LoadReport, turn_key_told
from .views import (
    Alike,
    demonstrations,
    evaluation_records,
    highest_rating,
    pairs,
    preferred,
    prompts,
    ranked,
    rated,
    set_aside,
    split,
    unjudged,
)

log = logging.getLogger(__name__)

TRAINING = ("preferences", "demonstrations", "prompts")
HELD_OUT = ("evaluation", "heldout", "tuning")

Gold = Callable[[list[str], list[str], list[bool]], list[float]]
Measure = Callable[[Record, str, bool], dict[str, float]]
AUDIT, LEAST_AUDIT = 0.2, 100   # the share for the auditor where none is named, and the comparisons it is worth it from


@dataclass
class DataSets:
    """The named sets of a data source; prompts of evaluation and heldout are in no training set.

    preferences: judged responses, single ratings too; heldout: the same of held-out prompts.
    evaluation: prompts of the reported evaluation, with one demonstration or preferred response where there is one.
    tuning: prompts to choose hyper-parameters on; may be empty.
    audit: judged responses to further prompts, of which no method learns: the auditor's (``runs.auditing``).
    texts: what the base was made to know, in texts that no set has: how likely they are tells what training took.
    gold: (prompts, responses, finished) → scores, where the true reward is known; or a reward source that has it.
    choices: questions with k ≥ 2 options as responses, the right ones scored 1, others 0; the names in
    ``meta["groups"]`` are the figures it counts in.
    measure: (record, response, finished) → figure's name → what a sampled response to an evaluated record shows.
    on_bad_row: error | drop, for rows that the run's chat template or tokenizer cannot use.
    unjudged: training prompts with several responses that nobody judged; labelling: what labelled the preferences,
    where that is no part of the data (``runs.feedback``).
    """

    preferences: Records
    demonstrations: Records
    prompts: Records
    evaluation: Records
    heldout: Records
    tuning: Records
    report: LoadReport
    gold: Any = None
    choices: Records | None = None
    measure: Measure | None = None
    on_bad_row: str = "error"
    audit: Records | None = None
    texts: Sequence[str] | None = None
    unjudged: Records | None = None
    labelling: Any = None


def view_sets(view: str) -> tuple[str, str]:
    """The names of the sets that a view is of: training, held out."""
    return {"demonstrations": ("demonstrations", "evaluation"), "prompts": ("prompts", "tuning")}.get(
        view, ("preferences", "heldout"))


def data_view(data: DataSets, view: str) -> tuple[Records, Records]:
    """(training records, held-out records) of a view."""
    views = {
        "demonstrations": lambda: (data.demonstrations, data.evaluation),
        "preferred": lambda: (preferred(data.preferences), preferred(data.heldout)),
        "pairs": lambda: (pairs(data.preferences), pairs(data.heldout)),
        "ranked": lambda: (ranked(data.preferences), ranked(data.heldout)),
        "rated": lambda: (rated(data.preferences), rated(data.heldout)),
        "prompts": lambda: (data.prompts, data.tuning),
    }
    if view not in views:
        raise ConfigError(f"algorithm.view: found {view!r}; expected one of {', '.join(views)}")
    return views[view]()


@dataclass
class FileData:
    """Files, a folder written by ``datasets.save_to_disk``, or a dataset of the Hugging Face hub (``data=file``).

    path: one or several, as JSON Lines, JSON, CSV, TSV (each also packed) or Parquet; globs and folders stand for their
    files in order (``shards``). name: a hub dataset, read where no path is given: so the presets of ``conf/data`` read
    it, or with ``data.path`` a file that is laid out like it.
    split: the part of a hub dataset or of a folder, whose files say theirs by their names. subset, revision, data_dir:
    see ``readers.Hub``; several data_dir are read one after the other. format, encoding, header, quoting, delimiter,
    rows: see ``readers.Source``.
    demonstrations_path, comparisons_path, prompts_path, evaluation_path: files for one of the sets alone, which is then
    made of nothing else; reading: set → the options (``own_files.OPTIONS``) that its files are read with instead.
    evaluation_split: the split that is evaluated, where no file is; None: none; "auto": `test`, where data.path is a
    folder that has it. Where there is such evaluation nothing else is held out for it, and training records of its
    conversations are left out and counted.
    columns: our field (one of ``fields.FIELDS``) → the column's name, or a list of columns (texts are joined by line
    breaks); None: by convention. template: the prompt, as text with {column} placeholders, instead of columns.prompt.
    chat: a prompt that is plain text is a user's message; otherwise the response follows it as it is.
    mapper: instead of columns, a function from a row to its record or records.
    group: the rows with the same text or whole number in this column, wherever they stand in one file, are one. The
    mapper takes the list of them; by columns the single response, with its score, that each row has becomes one of
    their record's. A row that cannot be used takes its group along.
    filter: a function from a row to whether it is read; what it refuses is counted under its name.
    votes: what makes one scored record of all comparisons of a prompt's responses (``evaluation.votes``).
    on_bad_row: error | drop. empty_answers: refuse | keep: a response without text is a bad row, or one as others.
    duplicates, contradictions: keep | drop: records that came before; all that order a pair of responses to a prompt
    which another orders the other way. split_by: conversation | similarity: nearly equal prompts, too, stay on one side
    (``similar``). heldout: share of the prompts held out. tuning: share of the others on which settings are
    chosen, in no training set (``eval.split=tuning``). audit: share of the remaining prompts with comparisons that the
    auditor learns from and no method does; None: a fifth, where that is a hundred comparisons, else none, and that is
    said. gold: a reward source that is taken for the truth. measure: what a sampled response shows, see ``DataSets``.
    limit: the first so many usable records only.
    Raises ConfigError for options that cannot be used, DataError for data that cannot.
    """

    path: str | list[str] | None = None
    demonstrations_path: str | list[str] | None = None
    comparisons_path: str | list[str] | None = None
    prompts_path: str | list[str] | None = None
    evaluation_path: str | list[str] | None = None
    evaluation_split: str | None = "auto"
    reading: Mapping[str, Mapping[str, Any]] | None = None
    name: str | None = None
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    data_dir: str | list[str] | None = None
    format: str | None = None
    # null in YAML: Hydra adds no keys to a mapping that is there
    columns: Mapping[str, str | list[str]] | None = None
    template: str | None = None
    chat: bool = False
    encoding: str | None = None
    header: bool = True
    quoting: bool = True
    delimiter: str | None = None
    rows: str | None = None
    mapper: Mapper | None = None
    group: str | None = None
    filter: Filter | None = None
    votes: Any = None
    on_bad_row: str = "error"
    empty_answers: str = "refuse"
    duplicates: str = "keep"
    contradictions: str = "keep"
    heldout: float = 0.1
    split_by: str = "conversation"
    tuning: float = 0.0
    audit: float | None = None
    gold: Any = None
    measure: Measure | None = None
    limit: int | None = None

    in_trial: ClassVar[dict[str, float]] = {"limit": 256, "audit": AUDIT}  # named, so an auditor of however few

    def __post_init__(self):
        def refuse(key: str, found: str, expected: str):
            raise ConfigError(f"data.{key}: found {found}; expected {expected}")

        if not any((self.path, self.name, self.demonstrations_path, self.comparisons_path, self.prompts_path)):
            refuse("path", "neither it nor data.name", "one of them")
        check_own(self, refuse)
        require(self, "data", on_bad_row=one_of(("error", "drop")), limit=at_least(1).or_null(),
                audit=SHARE_BELOW_1.or_null(), duplicates=one_of(("keep", "drop")),
                contradictions=one_of(("keep", "drop")), empty_answers=one_of(("refuse", "keep")),
                split_by=one_of(("conversation", "similarity")))
        if self.gold is not None and not hasattr(self.gold, "load"):
            refuse("gold", repr(self.gold), "a reward source's config; fix: +reward@data.gold=function")
        if self.votes is not None and not hasattr(self.votes, "scored"):
            refuse("votes", repr(self.votes), "what makes scores of votes; fix: +votes@data.votes=bradley_terry")
        if self.columns and self.mapper is not None:
            refuse("columns", "both columns and data.mapper", "one of them")
        if unknown := sorted((self.columns or {}).keys() - set(FIELDS)):
            refuse("columns", f"the field {unknown[0]}", "fields among " + ", ".join(FIELDS))
        if self.template is not None:
            self._check_template(refuse)
        check_delimiter(self.delimiter, "data.delimiter")
        for key in ("delimiter", "rows"):
            if getattr(self, key) is not None and not self.path and self.name:
                refuse(key, f"{getattr(self, key)!r} and no data.path", "a file that it says how to read")

    def _check_template(self, refuse: Callable[[str, str, str], None]):
        try:
            template_parts(self.template)
        except ValueError as error:
            refuse("template", f"{self.template!r} ({error})", "text with {column} placeholders; {{ and }} for braces")
        if not self.columns or "prompt" in self.columns:
            refuse("template", "the prompt in data.columns too" if self.columns else "no data.columns",
                   "data.columns beside it, for all fields but the prompt")

    def records(self) -> tuple[Records, LoadReport]:
        """All usable records and the report, before any split."""
        parts = self._read()
        return parts.records, parts.report

    def load(self, seed: int) -> DataSets:
        """The named sets. `seed` changes nothing: runs with different seeds share their held-out prompts.

        Of rated single responses those with the highest rating of all are demonstrations, which the report says. What
        was read of large files is kept (``kept``).
        """
        sets, report = kept(self, self._sets)
        return DataSets(**sets, report=report, gold=self.gold, measure=self.measure, on_bad_row=self.on_bad_row)

    def _sets(self) -> tuple[dict[str, Records | None], LoadReport]:
        """The named sets, read and divided."""
        parts = self._read()
        report = parts.report
        _log_report(report)
        alike = SimilarRoots(parts.records) if self.split_by == "similarity" else None
        train, heldout, evaluated = self._divided(parts, alike)
        train, tuned = split(train, self.tuning, "tuning", alike)
        train, audit = self._set_aside(parts, train, alike)
        rating = highest_rating(parts.of("demonstrations", parts.records))
        preferences = rated(parts.of("comparisons", train))
        demos = demonstrations(parts.of("demonstrations", train), rating)
        if rating is not None:
            report.fallbacks["demonstrations by rating"] = f"single responses rated {rating:g}, the highest"
        compared = rated(parts.of("demonstrations", train)) if "demonstrations" in parts.bounds else preferences
        if not len(demos) and len(ranked(compared)):
            demos = preferred(compared)
            report.fallbacks["demonstrations"] = "preferred responses"
        asked = parts.of("prompts", train) if "prompts" in parts.bounds else train
        if set(report.kinds) != {"prompt"} and "prompts" not in parts.bounds:
            report.fallbacks["prompts"] = "prompts of all training records"
        for name, source in report.fallbacks.items():
            log.info("%s made from: %s", name, source)
        if self.heldout and not len(evaluated):
            log.warning("nothing is held out: the data has a single prompt")
        return {"preferences": preferences, "demonstrations": demos, "prompts": prompts(asked),
                "evaluation": evaluation_records(evaluated, rating), "heldout": rated(heldout),
                "tuning": evaluation_records(tuned, rating), "audit": audit,
                "unjudged": unjudged(parts.of("comparisons", train))}, report

    def _read(self) -> Parts:
        parts = read_parts(self)
        parts.report.duplicates = repetitions(parts.records)
        if self.duplicates == "drop" and parts.report.duplicates:
            parts, parts.report.duplicates = parts.without(repeated(parts.records), "duplicate record"), 0
        parts.report.contradictions, rows = contradictions(parts.records)
        if self.contradictions == "drop" and len(rows):
            parts, parts.report.contradictions = parts.without(rows, "contradictory label"), 0
        return parts

    def _divided(self, parts: Parts, alike: Alike | None) -> tuple[Records, Records, Records]:
        """(training, held-out, evaluated) records: what is evaluated is held out, too, or has files of its own.

        Judged responses of held-out prompts are those of the evaluated ones, or where these have none a share of the
        training records'.
        """
        train = parts.training(alike)
        if "evaluation" not in parts.bounds:
            train, heldout = split(train, self.heldout, alike=alike)
            return train, parts.of("comparisons", heldout), heldout
        evaluated = parts.of("evaluation", parts.records)
        if len(rated(evaluated)) or not len(rated(parts.of("comparisons", train))):
            return train, evaluated, evaluated
        train, heldout = split(train, self.heldout, alike=alike)
        return train, parts.of("comparisons", heldout), evaluated

    def loader(self) -> Loader:
        """What reads one of its files after the other, and keeps the report."""
        return Loader(self.columns or {}, self.mapper, self.on_bad_row == "drop", self.limit, template=self.template,
                      group=self.group, filter=self.filter, empty=self.empty_answers == "keep")

    def read_by(self, loader: Loader) -> Iterator[Record]:
        """The records of its files alone."""
        found = loader.records(self._sources())
        found = map(_as_chat, found) if self.chat else found
        return found if self.votes is None else loader.report.recounted(self.votes.scored(Records.from_list(found)))

    def told(self) -> str:
        """What it reads, in words."""
        path = [self.path] if isinstance(self.path, (str, os.PathLike)) else self.path
        told = ", ".join(map(os.fspath, path)) if path else str(self.name)
        return told if self.split == "train" else f"{told} ({self.split})"

    def _set_aside(self, parts: Parts, train: Records, alike: Alike | None) -> tuple[Records, Records | None]:
        """What methods learn from, and what the auditor does."""
        share = AUDIT if self.audit is None else self.audit
        left, aside = set_aside(train, share, alike, parts.of("comparisons", train))
        audit = ranked(parts.of("comparisons", aside))
        if len(audit) < (LEAST_AUDIT if self.audit is None else 1):
            if self.audit is None and len(audit) and self.gold is None:
                log.warning("no auditor: a fifth would be %d comparisons, fewer than %d; without another judge nothing "
                            "but what methods learn from will score answers; fix: data.audit=0.3", len(audit),
                            LEAST_AUDIT)
            return train, None
        log.info("set aside for the auditor: %d of %d records, %d of them comparisons; no method learns from them "
                 "(data.audit)", len(aside), len(train), len(audit))
        return left, audit

    def _sources(self) -> list[Source | Hub]:
        if not self.path:
            folders = self.data_dir if isinstance(self.data_dir, list) else [self.data_dir]
            return [Hub(self.name, self.subset, self.split, self.revision, folder) for folder in folders]
        if self.name:
            log.info("data.path is read, not the hub's %s", self.name)
        return [Source(path, self.format, self.header, self.quoting, self.split, self.delimiter, self.rows,
                       encoding=self.encoding,
                       shown=f"{path}/{self.split}" if is_saved(path) and self.split != "train" else None)
                for path in found_files(self.path, self.format, self.split)]


def _as_chat(record: Record) -> Record:
    plain = isinstance(record.prompt, str) and record.prompt
    return replace(record, prompt=[{"role": "user", "content": record.prompt}]) if plain else record


def _log_report(report: LoadReport):
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items() if count)
    log.info("read %s rows, kept %s records: %s", f"{report.read:,}", f"{report.kept:,}", kinds)
    for reason, count in report.dropped.items():
        log.warning("dropped %d rows: %s (%s)", count, reason, report.places(reason))
    for message in report.messages().values():
        log.warning("dropped: %s", message)
    for what, count in report.skipped.items():
        log.warning("skipped %d times: %s", count, what)
    for name, count in report.filtered.items():
        log.info("filtered %d rows: %s", count, name)
    for name, count in report.turn_keys.items():
        log.info("%s", turn_key_told(name, count))
    for path, names in grouped(report.ignored_columns).items():
        log.info("%s: columns not read: %s", path, ", ".join(map(repr, names)))
    for count, what in ((report.duplicates, "duplicate records (kept)"),
                        (report.contradictions, "contradictory labels: pairs ordered in both ways (kept)"),
                        (report.blank_lines, "blank lines (skipped)"),
                        (report.rows_without_records, "rows without a record")):
        if count:
            log.warning("%d %s", count, what)
