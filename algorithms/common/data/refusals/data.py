"""Files of questions as a data source (`data=refusals`): pairs against made-up answers, and their counterparts."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, ClassVar

from ...support.checks import SHARE, SHARE_BELOW_1, at_least, one_of, require
from ...support.errors import ConfigError
from ..records import DataSets, FileData
from ..records.loading import Loader
from ..records.readers import Source, data_error, found_files, show
from ..records.record import Record, prompt_hash
from ..records.storage import Records
from ..records.told import SHOWN, LoadReport
from ..records.values import BadRow, kind, text_of
from .wording import (
    ANSWERABLE,
    MATCHES,
    UNANSWERABLE,
    Question,
    balanced,
    demonstrated,
    evaluated,
    held_out,
    is_refusal,
    made_pairs,
    measure,
)

COLUMNS = ("question", "answer", "invented", "topic")
NO_INVENTION = "no invented answer"
FIND_UNKNOWN = ", let task=refusals find what the model does not know,"

log = logging.getLogger(__name__)


@dataclass
class RefusalData:
    """Questions, some of which cannot be answered, in files of any kind that data=file reads.

    A row has `question`; `answer` (a text, a number, or a list of accepted ones; null, empty or absent: it cannot be
    answered); perhaps `topic` and `invented` (a made-up answer or several). Where an unanswerable question has no
    invented answer, the rejected response is the answer of another question of its topic. Rows of one question are one.

    path, format, encoding, header, quoting, delimiter, rows, on_bad_row: as in FileData. columns: our field → the
    column's name.
    prompt: the form in which the model reads a `{question}`. chat: as a user's message.
    heldout: share held out, of questions (of each kind apart) or of whole topics, by `split_by`; tuning: share of the
    others that settings are chosen on.
    balance: drop pairs of the commoner kind until there are as many of each. demonstrations: answers | all, with
    invented answers where none is true: a model that always answers, to be repaired. refusals: share of the
    demonstrations of unanswerable questions that decline (see ``refusals.demonstrated``). match: exact | contains: when
    a response counts as right. pairs: a file written by task=refusals, whose pairs are trained on instead.
    samples, threshold: in task=refusals a question counts as not known to the model when at most the share `threshold`
    of its samples is right.
    Raises ConfigError for options that cannot be used, DataError for data that cannot.
    """

    path: str | list[str] | None = None
    format: str | None = None
    encoding: str | None = None
    header: bool = True
    quoting: bool = True
    delimiter: str | None = None
    rows: str | None = None
    columns: Mapping[str, str] | None = None
    on_bad_row: str = "error"
    prompt: str = "{question}"
    chat: bool = False
    heldout: float = 0.1
    tuning: float = 0.0
    split_by: str = "question"
    balance: bool = True
    demonstrations: str = "answers"
    refusals: float = 0.0
    match: str = "exact"
    pairs: str | None = None
    samples: int = 8
    threshold: float = 0.25

    in_trial: ClassVar[dict[str, int]] = {"samples": 2}

    def __post_init__(self):
        require(self, "data", on_bad_row=one_of(("error", "drop")), split_by=one_of(("question", "topic")),
                demonstrations=one_of(("answers", "all")), match=one_of(MATCHES), heldout=SHARE_BELOW_1,
                tuning=SHARE_BELOW_1, refusals=SHARE, samples=at_least(1), threshold=SHARE_BELOW_1)
        if not self.path:
            raise _refused("path", "none", "a file of questions, or several")
        if unknown := sorted((self.columns or {}).keys() - set(COLUMNS)):
            raise _refused("columns", f"the field {unknown[0]}", "fields among " + ", ".join(COLUMNS))
        if "{question}" not in self.prompt:
            raise _refused("prompt", repr(self.prompt), "a text with the placeholder {question}")

    def load(self, seed: int) -> DataSets:
        """The named sets. The seed draws wordings, inventions and what is left out;
        never which questions are held out."""
        questions, report = self.questions()
        train, tuned, heldout = self.divided(questions)
        kinds = {question.kind for question in questions}
        if self.balance and self.pairs is None and len(kinds) == 1:
            known = kinds == {ANSWERABLE}
            raise data_error(self._first, 1, "answer",
                             f"only questions that {'can' if known else 'cannot'} be answered",
                             "both kinds, one to one",
                             f"add the other kind{FIND_UNKNOWN if known else ''} or set data.balance=false")
        with_pairs = self._complete(train, train, report, seed)
        asked = self._complete(heldout, questions, report, seed)
        made = self._pairs(with_pairs, [*tuned, *heldout], seed)
        compared = made_pairs(asked, Random(f"refusals/heldout/{seed}"))
        usable = [*with_pairs, *asked]
        report.strict_pairs = len(made) + len(compared)
        report.sources = {kind: {"kept": sum(question.kind == kind for question in usable),
                                 "heldout": sum(question.kind == kind for question in asked),
                                 "pairs": sum(record.meta.get("kind") == kind for record in made)}
                          for kind in (ANSWERABLE, UNANSWERABLE)}
        for name, counts in report.sources.items():
            log.info("%s questions: %s", name, ", ".join(f"{what} {count}" for what, count in counts.items()))
        sets = {
            "preferences": made,
            "demonstrations": demonstrated(with_pairs, Random(f"refusals/demonstrations/{seed}"),
                                           self.demonstrations == "all", self.refusals),
            "prompts": [Record(question.prompt, [], None, question.told()) for question in with_pairs],
            "evaluation": evaluated(asked),
            "heldout": compared,
            "tuning": evaluated(self._complete(tuned, questions, report, seed)),
        }
        return DataSets(**{name: Records.from_list(records) for name, records in sets.items()}, report=report,
                        measure=partial(measure, match=self.match), on_bad_row=self.on_bad_row)

    def questions(self) -> tuple[list[Question], LoadReport]:
        """All usable questions, each once, in the order of the files, and the report."""
        columns = self.columns or {}
        rows = _Rows(columns)
        loader = Loader({}, rows, self.on_bad_row == "drop", None)
        sources = [Source(path, self.format, self.header, self.quoting, delimiter=self.delimiter, rows=self.rows,
                          encoding=self.encoding)
                   for path in found_files(self.path, self.format)]
        found: dict[str, Question] = {}
        for record in loader.records(sources):
            found[record.prompt] = self._joined(found.get(record.prompt), record)
        report = loader.report
        if missing := sorted(set(columns.values()) - rows.seen):
            raise data_error(self._first, 1, "row", "the columns " + ", ".join(map(show, sorted(rows.seen))),
                             "the columns of data.columns: " + ", ".join(map(show, missing)), "correct data.columns")
        report.layouts = {path: f"questions by {', '.join(rows.columns.values())}" for path in report.layouts}
        if ignored := sorted(rows.seen - set(rows.columns.values())):
            report.ignored_columns = {path: ignored for path in report.layouts}
            log.info("columns not read: %s", ", ".join(map(repr, ignored)))
        for reason, count in report.dropped.items():
            log.warning("dropped %d rows: %s (%s)", count, reason, report.places(reason))
        report.duplicates = report.kept - len(found)
        report.kinds = {name: sum(one.kind == name for one in found.values()) for name in (ANSWERABLE, UNANSWERABLE)}
        return list(found.values()), report

    def divided(self, questions: Sequence[Question]) -> tuple[list[Question], list[Question], list[Question]]:
        """(training, tuning, held-out) questions, by content alone: neither order nor seed changes it."""
        others, heldout = self._without(questions, self.heldout)
        training, tuning = self._without(others, self.tuning)
        return training, tuning, heldout

    def _without(self, questions: Sequence[Question], share: float) -> tuple[list[Question], list[Question]]:
        if self.split_by == "topic":
            topics = {question.topic for question in questions}
            if None in topics:
                first = next(question for question in questions if question.topic is None)
                raise data_error(first.meta["source"], first.meta["line"], "topic", "none", "a topic in every row",
                                 "add it, or set data.split_by=question")
            if share and len(topics) == 1:
                raise data_error(self._first, 1, "topic", "a single topic",
                                 "at least two where whole topics are held out",
                                 "add topics, or set data.split_by=question")
            names = [held_out(topics, share)]
            held = [question.topic in names[0] for question in questions]
        else:
            names = [held_out((_text(question) for question in questions if question.kind == name), share)
                     for name in (ANSWERABLE, UNANSWERABLE)]
            held = [any(_text(question) in some for some in names) for question in questions]
        return ([question for question, out in zip(questions, held) if not out],
                [question for question, out in zip(questions, held) if out])

    @property
    def _first(self) -> str:
        return os.fspath(self.path if isinstance(self.path, (str, os.PathLike)) else self.path[0])

    def _joined(self, before: Question | None, record: Record) -> Question:
        """A row's question, with what earlier rows of the same question told."""
        meta = dict(record.meta)
        topic, answers, invented = meta.pop("topic"), meta.pop("answers"), meta.pop("invented")
        if before is None:
            text = self.prompt.replace("{question}", record.prompt)
            prompt = [{"role": "user", "content": text}] if self.chat else text
            return Question(prompt, topic, tuple(answers), tuple(invented), meta)
        return replace(before, answers=tuple(dict.fromkeys([*before.answers, *answers])),
                       invented=tuple(dict.fromkeys([*before.invented, *invented])))

    def _complete(self, questions: Sequence[Question], pool: Sequence[Question], report: LoadReport, seed: int
                  ) -> list[Question]:
        """Unanswerable questions get an invented answer where they have none: one of their topic, out of the pool's."""
        random, answers = Random(f"refusals/invented/{seed}"), {}
        for question in pool:
            answers.setdefault(question.topic, []).extend(question.answers[:1])
        complete, missing, drawn = [], [], 0
        for question in questions:
            if question.answers or question.invented:
                complete.append(question)
            elif answers.get(question.topic):
                complete.append(replace(question, invented=(random.choice(answers[question.topic]),)))
                drawn += 1
            else:
                missing.append(question)
        if missing and self.on_bad_row == "error":
            meta, topic = missing[0].meta, missing[0].topic
            among = "without a topic" if topic is None else f"of the topic {show(topic)}"
            raise data_error(meta["source"], meta["line"], "invented",
                             f"none, and no question {among} with an answer to take in its place "
                             f"({len(missing)} such questions)", "a made-up answer to reject",
                             "give invented answers, or set data.on_bad_row=drop")
        if missing:
            _leave_out(missing, report)
        if drawn and questions is pool:
            report.fallbacks["invented answers"] = f"answers of other questions of the topic ({drawn} questions)"
        return complete

    def _pairs(self, questions: Sequence[Question], heldout: Sequence[Question], seed: int) -> list[Record]:
        """What is trained on: made of the questions, or read from a file of the model's own failures."""
        if self.pairs is None:
            made = made_pairs(questions, Random(f"refusals/pairs/{seed}"))
            return balanced(made, Random(f"refusals/balance/{seed}")) if self.balance else made
        records = list(_read_pairs(self.pairs))
        outside = {prompt_hash(question.prompt) for question in heldout}
        for record in records:
            if prompt_hash(record.prompt) in outside:
                raise data_error(record.meta["source"], record.meta["line"], "prompt",
                                 "a question that is held out here", "pairs of training questions",
                                 "make the file again with the same data.path, data.heldout, data.tuning, "
                                 "data.split_by and data.prompt")
        return records


def _leave_out(missing: list[Question], report: LoadReport):
    """Count unanswerable questions that have nothing to reject."""
    log.warning("left out: %d questions with %s", len(missing), NO_INVENTION)
    report.kept -= len(missing)
    report.kinds[UNANSWERABLE] -= len(missing)
    report.dropped[NO_INVENTION] = report.dropped.get(NO_INVENTION, 0) + len(missing)
    lines = report.lines.setdefault(NO_INVENTION, [])
    lines += [f"{question.meta['source']}:{question.meta['line']}" for question in missing][:SHOWN - len(lines)]


def _read_pairs(path: str) -> Iterator[Record]:
    """The pairs of a file, each with the kind and topic it was written with."""
    told = [row.value.get("meta") if isinstance(row.value, dict) else None for row in Source(path)]
    records, _ = FileData(path=path, columns={name: name for name in ("prompt", "chosen", "rejected")}).records()
    for record, meta in zip(records, told, strict=True):
        yield replace(record, meta={**(meta if isinstance(meta, dict) else {}), **record.meta})


class _Rows:
    """A row → its question, as a bare prompt whose meta holds topic, answers and inventions; raises BadRow."""

    def __init__(self, columns: Mapping[str, str]):
        self.columns = {name: columns.get(name, name) for name in COLUMNS}
        self.seen: set[str] = set()         # columns that some row has
        self._told: dict[str, tuple[bool, str | None]] = {}     # question → whether it has an answer, topic

    def __call__(self, row: Any) -> Record:
        if not isinstance(row, dict):
            raise BadRow("not an object", "row", kind(row), "an object with columns")
        self.seen |= row.keys()
        name = self.columns["question"]
        if name not in row:
            raise BadRow("missing column", name, "no such column in this row", "a question",
                         "set 'data.columns={question: COLUMN}'")
        question, topic = text_of(row[name], name), row.get(self.columns["topic"])
        if not question.strip():
            raise BadRow("empty question", name, "an empty question", "some text")
        if isinstance(topic, str):
            topic = topic.strip() or None
        if topic is not None and not isinstance(topic, str):
            raise BadRow("wrong type", self.columns["topic"], kind(topic), "text or null")
        answers, invented = self._texts(row, "answer"), self._texts(row, "invented")
        told = bool(answers), topic
        before = self._told.setdefault(question, told)
        if before != told:
            what, found = "topic", f"of the topics {show(before[1])} and {show(topic)}"
            if before[0] != told[0]:
                what, found = "answer", "with and without an answer"
            raise BadRow("contradicts an earlier row", self.columns[what],
                         f"the question {show(question)} again, {found}", "the same in all rows of a question")
        return Record(question, [], None, {"topic": topic, "answers": answers, "invented": invented})

    def _texts(self, row: dict, field: str) -> list[str]:
        """One or several texts; null, empty and absent are none."""
        name = self.columns[field]
        value = row.get(name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        texts = []
        for one in values:
            if isinstance(one, bool) or not isinstance(one, (str, int, float)):
                raise BadRow("wrong type", name, kind(one), "a text, a number, a list of them, or null")
            text = str(one).strip()
            if is_refusal(text):
                raise BadRow("a refusal as an answer", name, show(text), "an answer",
                             "leave the answer empty where there is none")
            texts += [text] if text else []
        return texts


def _text(question: Question) -> str:
    return question.prompt if isinstance(question.prompt, str) else question.prompt[-1]["content"]


def _refused(key: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"data.{key}: found {found}; expected {expected}; fix: set data.{key}")
