"""One instruction task: a YAML file with templates, and rows with named fields.

As in FLAN (Wei et al. 2021, arXiv 2109.01652).

    name: city                       # default: the file's stem
    cluster: qa
    file: city.jsonl.gz              # rows: beside this YAML, or in data.path; null: a file there that no task names
    format, encoding, header, quoting, delimiter, rows    # as for data=file
    columns: {question: q}           # our field → column; empty: the file's own names. There is a field `answer`
    unescape: false                  # the two characters \\n in a field become a line break
    key: person                      # its value decides whether a row is held out; null: all that the prompts show
    unit: person                     # what rows ask about, resampled as one; null: what decides a row's side
    options: options                 # a field with a list of texts, or a list of texts; null: free answers
    listed: false                    # true: the fields' own text lists the options, so they are never added to a prompt
    natural: "..."                   # the form an un-tuned model knows best (evaluation only)
    templates: ["{question}\\nAnswer:", {input: ..., target: "{answer}."}]
    inverted: [{input: "Ask something with the answer {answer}.", target: "{question}"}]     # at most 3
    unseen: ["..."]                  # evaluation only
    cot: ["{question} Think step by step."]     # chain of thought; needs a field `rationale`
    answer_after: So the answer is   # what marks the answer in a chain of thought

A placeholder is a field's name in braces; doubled braces are braces. {options} is FLAN's list, {choices} is
"a, b or c".
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ...support.errors import ConfigError
from ..records.readers import Source, data_error, show
from ..records.recognition import template_parts
from ..records.record import Record
from ..records.values import BadRow, kind

LISTS = ("options", "choices")      # placeholders that show the options
MOST_INVERTED = 3                   # of FLAN's ten templates a data set


@dataclass(frozen=True)
class Pattern:
    """A template: what is asked, and what is to be answered, over a row's fields."""

    input: str
    target: str = "{answer}"
    listed: bool = False            # the options stand in a field's own text

    @cached_property
    def shown(self) -> set[str]:
        """The names in the input's placeholders."""
        return _names(self.input)

    @property
    def lists_options(self) -> bool:
        """Whether the prompt shows the options."""
        return self.listed or bool(self.shown & set(LISTS))


@dataclass(frozen=True)
class TaskRow:
    """A row's fields as text. side: what its held-out side is decided by."""

    values: Mapping[str, str]
    options: tuple[str, ...] | None
    side: str
    source: str = ""
    line: int = 0

    @property
    def answer(self) -> str:
        return self.values["answer"]

    def record(self) -> Record:
        """In the form in which rows are kept on disk; the prompt is the side, so that ``views.split`` splits by it."""
        options = self.options and list(self.options)
        return Record(self.side, [], None, {"values": dict(self.values), "options": options})

    @classmethod
    def of(cls, record: Record) -> "TaskRow":
        options = record.meta["options"]
        return cls(record.meta["values"], options and tuple(options), record.prompt, record.meta["source"],
                   record.meta["line"])


@dataclass(frozen=True)
class TaskFile:
    """A task as its YAML declares it; see the module for the keys. Raises ConfigError, which names the YAML."""

    path: str
    name: str
    cluster: str
    file: str | None
    templates: list[Pattern]
    format: str | None = None
    header: bool = True
    quoting: bool = True
    delimiter: str | None = None
    encoding: str | None = None
    rows: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    unescape: bool = False
    key: str | None = None
    unit: str | None = None
    options: str | list[str] | None = None
    listed: bool = False
    natural: Pattern | None = None
    inverted: list[Pattern] = field(default_factory=list)
    unseen: list[Pattern] = field(default_factory=list)
    cot: list[Pattern] = field(default_factory=list)
    answer_after: str = "So the answer is"

    def __post_init__(self):
        if not self.templates:
            raise self.bad("templates", "none", "at least one")
        if len(self.inverted) > MOST_INVERTED:
            raise self.bad("inverted", f"{len(self.inverted)} templates", f"at most {MOST_INVERTED}")
        if any(pattern.shown & self._lists for pattern in self.inverted):
            raise self.bad("inverted", "a template that lists the options", "the input made from the answer")
        for pattern in self.cot:
            if _literal(self.answer_after) not in pattern.target:
                raise self.bad("cot", f"the target {show(pattern.target)}",
                               f"answer_after ({self.answer_after!r}) in it",
                               "give the template a target, or set answer_after")
        if isinstance(self.options, list):
            if not all(isinstance(option, str) and option.strip() for option in self.options):
                raise self.bad("options", show(self.options), "texts",
                               "quote them: YAML reads yes and numbers otherwise")
            if len(set(self.options)) < max(len(self.options), 2):
                raise self.bad("options", show(self.options), "two or more different texts")
        if self.columns:
            self.check_fields(self.columns)

    def bad(self, key: str, found: str, expected: str, fix: str = "correct the task's YAML") -> ConfigError:
        return ConfigError(f"{self.path}: {key}: found {found}; expected {expected}; fix: {fix}")

    @property
    def patterns(self) -> Iterator[tuple[str, Pattern]]:
        """Every template with the key it stands under."""
        for key in ("templates", "inverted", "unseen", "cot"):
            yield from ((key, pattern) for pattern in getattr(self, key))
        if self.natural is not None:
            yield "natural", self.natural

    @cached_property
    def used(self) -> list[str]:
        """The text fields that templates, key and unit use; the answer first."""
        names = {"answer", *filter(None, (self.key, self.unit)), *(["rationale"] if self.cot else [])}
        for _, pattern in self.patterns:
            names |= _names(pattern.input) | _names(pattern.target)
        return ["answer", *sorted(names - {"answer"} - self._lists)]

    @cached_property
    def needed(self) -> list[list[str]]:
        """Groups of fields of which one must hold text, so that no prompt and no target is empty."""
        groups = {("answer",), *([("rationale",)] if self.cot else [])}
        for _, pattern in self.patterns:
            for text in (pattern.input, pattern.target):
                if not any(before.strip() for before, _ in _parts(text)) and not _names(text) & self._lists:
                    groups.add(tuple(sorted(_names(text))))
        return sorted(map(list, groups))

    @cached_property
    def side_fields(self) -> list[str]:
        """What decides a row's side: the key, or all that prompts show but inverted ones."""
        if self.key:
            return [self.key]
        asking = {name for key, pattern in self.patterns if key != "inverted" for name in pattern.shown} - self._lists
        return sorted(asking) or ["answer"]

    def unit_of(self, row: TaskRow) -> str:
        """What a row asks about. Rows of other tasks about the same (a person of one name, say) share it."""
        name = self.unit or self.key
        return f"{name}: {row.values[name]}" if name else row.side

    @property
    def _lists(self) -> set[str]:
        return set() if self.options is None else set(LISTS)

    def check_fields(self, there: Iterable[str]):
        """ConfigError where a template, the key or the options name a field that is not among those there are."""
        there = set(there)
        listed = "a field among " + ", ".join(sorted(there))
        for key, pattern in self.patterns:
            for text in (pattern.input, pattern.target):
                if unknown := sorted(_names(text) - there - self._lists):
                    none = "; the task declares no options" if unknown[0] in LISTS else ""
                    raise self.bad(key, f"{{{unknown[0]}}} in the template {show(text)}", listed + none)
        if isinstance(self.options, str) and self.options not in there:
            raise self.bad("options", self.options, listed + ", or a list of texts")
        for key, name in (("key", self.key), ("unit", self.unit)):
            if name and name not in there:
                raise self.bad(key, name, listed)
        for name in ("answer", *(["rationale"] if self.cot else [])):
            if name not in there:
                raise self.bad("columns", f"no field {name}, but {', '.join(sorted(there))}", "one",
                               f"set columns: {{{name}: COLUMN}}")

    # ---- rows

    def open(self, path: str) -> tuple[Source, list[str]]:
        """The rows of a file and the columns it has beside those that are read, as its first row shows them.

        Raises ConfigError where a template names a field that is not there, DataError where the file cannot be read.
        """
        first = next(iter(self._source(path)))
        found = list(first.value) if isinstance(first.value, dict) else []
        if not found:
            raise data_error(path, first.line, "row", kind(first.value), "an object with fields",
                             "name every row's fields")
        if missing := sorted(set(self.columns.values()) - set(found)):
            raise data_error(path, 1, "row", "the columns " + ", ".join(map(show, found)),
                             f"the columns of {self.path}: " + ", ".join(map(show, missing)),
                             "correct them, or the file")
        if not self.columns:
            self.check_fields(found)
        names = [*self.used, self.options] if isinstance(self.options, str) else self.used
        read = {self.columns.get(name, name) for name in names}
        return self._source(path), [name for name in found if name not in read]

    def _source(self, path: str) -> Source:
        return Source(path, self.format, self.header, self.quoting, delimiter=self.delimiter, rows=self.rows,
                      task=self.path, encoding=self.encoding)

    def record(self, raw: Any) -> Record:
        """The row as it is kept; raises BadRow."""
        if not isinstance(raw, dict):
            raise BadRow("not an object", "row", kind(raw), "an object with fields")
        values = {name: self._text(self._value(raw, name), self.columns.get(name, name)) for name in self.used}
        for names in self.needed:
            if not any(values[name].strip() for name in names):
                column = self.columns.get(names[0], names[0])
                raise BadRow(f"empty {column}", column, "no text", "some text")
        options = self._options(raw, values["answer"])
        side = "\n\n".join(f"{name}: {values[name]}" for name in self.side_fields)
        return TaskRow(values, options, side).record()

    def _value(self, raw: dict, name: str) -> Any:
        column = self.columns.get(name, name)
        if column not in raw:
            raise BadRow("missing field", column, "no such field in this row", "a value")
        return raw[column]

    def _text(self, value: Any, column: str) -> str:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise BadRow("null" if value is None else "wrong type", column, kind(value), "text or a number")
        return value.replace("\\n", "\n") if self.unescape else value

    def _options(self, raw: dict, answer: str) -> tuple[str, ...] | None:
        if self.options is None:
            return None
        column = "options"
        options = self.options
        if isinstance(options, str):
            column = self.columns.get(options, options)
            value = self._value(raw, options)
            if not isinstance(value, list):
                raise BadRow("null" if value is None else "wrong type", column, kind(value), "a list of texts")
            options = [self._text(item, column) for item in value]
        if len(set(options)) < max(len(options), 2) or not all(option.strip() for option in options):
            raise BadRow("unusable options", column, show(options), "two or more different texts")
        if answer not in options:
            raise BadRow("answer not among the options", column, show(answer), f"one of {show(options)}")
        return tuple(options)


def fill(text: str, row: TaskRow) -> str:
    """The text with a row's values in its placeholders."""
    return "".join(before + ("" if name is None else _shown(name, row)) for before, name in _parts(text))


_parts = cache(template_parts)


def _shown(name: str, row: TaskRow) -> str:
    if name in LISTS and row.options is not None:
        return options_block(row.options) if name == "options" else choices_text(row.options)
    return row.values[name]


def options_block(options: Iterable[str]) -> str:
    """FLAN's list: OPTIONS: and a line for each."""
    return "OPTIONS:\n" + "\n".join(f"- {option}" for option in options)


def choices_text(options: Iterable[str]) -> str:
    """a, b or c"""
    *head, last = options
    return f"{', '.join(head)} or {last}"


def ask(pattern: Pattern, row: TaskRow, suffix: bool = False) -> tuple[str, str]:
    """(prompt, target). suffix: the options follow the prompt, on lines of their own,
    unless the template lists them."""
    prompt = fill(pattern.input, row)
    if suffix and row.options is not None and not pattern.lists_options:
        prompt += "\n" + options_block(row.options) + "\n"
    return prompt, fill(pattern.target, row)


def _names(text: str) -> set[str]:
    return {name for _, name in _parts(text) if name is not None}


# ---- reading the YAML


def read_task(path: str) -> TaskFile:
    """A task's YAML. Raises ConfigError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        told = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: found no YAML that can be read ({reason}); expected a task's YAML; "
                          "fix: correct the file, or data.tasks") from None
    if not isinstance(told, dict):
        raise ConfigError(f"{path}: found {kind(told)}; expected a task's keys (cluster, file, …); "
                          "fix: correct the file")
    return _task(path, {"name": Path(path).stem, **told})


_TYPES = {"name": str, "cluster": str, "file": str | None, "templates": list, "format": str | None, "header": bool,
          "quoting": bool, "delimiter": str | None, "encoding": str | None, "rows": str | None, "columns": dict,
          "unescape": bool, "key": str | None, "unit": str | None, "options": str | list | None, "listed": bool,
          "natural": str | dict | None,
          "inverted": list, "unseen": list, "cot": list, "answer_after": str}


_TEMPLATES = ("templates", "inverted", "unseen", "cot")     # keys with a list of them


def _task(path: str, told: dict) -> TaskFile:
    _check_keys(path, told)
    mark = told.get("answer_after", TaskFile.answer_after)
    cot_target = f"{{rationale}} {_literal(mark)} {{answer}}."

    def pattern(key: str, value: Any) -> Pattern:
        parts = _pattern_parts(path, key, value, cot_target if key == "cot" else "{answer}")
        return Pattern(**parts, listed=told.get("listed", False))

    patterns: dict[str, Any] = {key: [pattern(key, value) for value in told.get(key, [])] for key in _TEMPLATES}
    if told.get("natural") is not None:
        patterns["natural"] = pattern("natural", told["natural"])
    return TaskFile(path=path, **{**told, **patterns})


def _refuse(path: str, key: str, found: str, expected: str):
    raise ConfigError(f"{path}: {key}: found {found}; expected {expected}; fix: correct the task's YAML")


def _check_keys(path: str, told: dict):
    """Refuses keys that there are not, values of another type, and what must be there and is not."""
    known = [f.name for f in fields(TaskFile) if f.name != "path"]
    for key, value in told.items():
        if key not in known:
            _refuse(path, str(key), "no such key", "one of " + ", ".join(known))
        if not isinstance(value, _TYPES[key]) or value == "":
            expected = str(getattr(_TYPES[key], "__name__", _TYPES[key]))
            _refuse(path, key, show(value), expected.replace("None", "null"))
    for key in ("cluster", "file", "templates"):
        if key not in told:
            _refuse(path, key, "no value", "one")
    for key in ("name", "cluster"):
        if not re.fullmatch(r"[\w.+-]+", told[key]):
            _refuse(path, key, show(told[key]), "letters, digits, _ . + -, as it becomes part of figures' names")
    if not all(isinstance(text, str) for pair in told.get("columns", {}).items() for text in pair):
        _refuse(path, "columns", show(told["columns"]), "our field: the column's name")


def _pattern_parts(path: str, key: str, value: Any, target: str) -> dict[str, str]:
    """The input and the target of a template of `key`; `target`: where it states none."""
    given = {"input": value} if isinstance(value, str) else value
    parts = {"target": target, **given} if isinstance(given, dict) else {}
    if set(parts) != {"input", "target"} or not all(isinstance(text, str) for text in parts.values()):
        _refuse(path, key, show(given), "a text, or {input: text, target: text}")
    if key == "inverted" and "target" not in given:
        _refuse(path, key, show(given),
                "{input: text, target: text}: an inverted template says what it asks for")
    for text in parts.values():
        try:
            template_parts(text)
        except ValueError as error:
            _refuse(path, key, f"the template {show(text)} ({error})",
                    "placeholders {field}; braces themselves are doubled")
    return parts


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
