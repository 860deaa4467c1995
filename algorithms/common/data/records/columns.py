"""Raw rows → records, by column names.

A file's columns are matched with our fields (``recognition.py``), and the fields present decide the layout. A row that
cannot be used raises BadRow.

A prompt is messages where it is given as turns or as an HH transcript with an open last turn, where the file has a
system column, and where a response came as turns, which may repeat the prompt; else it is text. Turns are a list of
them, one alone, an object of lists, the JSON text of a list (``values.turns_of``), and, for a response beside a prompt,
an HH transcript. Prompts that are lists of texts are turns, too (``turn_lists``). All other text is used as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from .answers import answer_of, conversation_of, plain_texts
from .fields import CONVENTIONS, OPTIONAL, column_of, is_layout, option, response_column
from .judged import Winners, rank_scores
from .lines import show
from .record import MARKS, Messages, Record, answered, parse_transcript
from .turn_lists import turns_listed
from .values import (
    BadRow,
    Skipped,
    cell,
    given,
    kind,
    label_of,
    last_turn,
    learned_part,
    list_of,
    messages_of,
    number_of,
    text_of,
    turns_of,
)

CUT = "the end of a conversation, after its last answer that is to be learned (weight 0 or train: false)"


@dataclass(frozen=True)
class Layout:
    """Which of our fields a file has, and the column (or columns) of each.

    A system column, and one with such a name (OPTIONAL) that another is joined with, may be null or absent in a row: it
    then adds nothing.
    listed: the prompt is a list of texts, its turns. winners: how the winner's column names one of the responses.
    empty: responses may have no text.
    known: by convention, the columns of the first rows and the optional ones of all: a value in another with a meaning
    of its own makes a bad row.
    template: the prompt as (text, column after it or None) in turn; its columns are then those of the prompt.
    """

    columns: Mapping[str, str | list[str]]
    listed: bool = False
    winners: Winners | None = None
    empty: bool = False
    known: frozenset[str] | None = None
    template: list[tuple[str, str | None]] | None = None

    @property
    def name(self) -> str:
        """What the layout is called in reports: its fields with the columns they come from."""
        parts = []
        for field, column in self.columns.items():
            source = column if isinstance(column, str) else " + ".join(column)
            parts.append(field if field == column else f"{field} ← {source}")
        return "{" + ", ".join(parts) + "}"

    @property
    def by_name(self) -> str:
        """data.columns that reads the same; of columns that are parts of a conversation, the conversation."""
        return option({field: column for field, column in self.columns.items()
                       if "messages" not in self.columns or field not in ("prompt", "response")})

    @property
    def used(self) -> set[str]:
        """The names of all columns read, and of those that a name with dots may go into."""
        return {part for name in self._names() for part in (name, name.partition(".")[0])}

    def missing(self, found: Iterable[str]) -> list[str]:
        """The names that are no column and go into none."""
        return sorted({name for name in self._names() if not {name, name.partition(".")[0]} & set(found)})

    @property
    def optional(self) -> set[str]:
        """The columns that rows may lack, each with the one that a name with dots goes into."""
        joined = [column[1:] for column in self.columns.values() if not isinstance(column, str)]
        names = [name for column in joined for name in column if name in OPTIONAL]
        system = self.columns.get("system", [])
        names += [system] if isinstance(system, str) else system
        return {part for name in names for part in (name, name.partition(".")[0])}

    @cached_property
    def sources(self) -> dict[str, str]:
        """Field → the column or columns it is read from, as messages name them."""
        return {field: column_of(self.columns, field) for field in self.columns}

    @cached_property
    def _unexpected(self) -> set[str]:
        """The columns with a meaning of their own that this file does not have."""
        return set() if self.known is None else CONVENTIONS.keys() - self.known

    @cached_property
    def _plain(self) -> list[str]:
        """The columns of a prompt and the responses to it, where nothing else is read; else none."""
        for fields in (("prompt", "chosen", "rejected"), ("prompt", "response")):
            if self.columns.keys() == set(fields) and self.template is None and not self.listed:
                names = [self.columns[field] for field in fields]
                return names if all(isinstance(name, str) for name in names) else []
        return []

    def _names(self) -> list[str]:
        return [name for column in self.columns.values() for name in ([column] if isinstance(column, str) else column)]

    def parts(self, row: Any) -> list[Record | Skipped]:
        """The record of one raw row, and what of the row is left out; raises BadRow."""
        if not isinstance(row, dict):
            raise BadRow("not an object", "row", kind(row), "an object with columns")
        if self._unexpected and (extra := row.keys() & self._unexpected):
            if told := [name for name in sorted(extra) if row[name] is not None]:
                raise BadRow("unexpected column", told[0], "a column that the first rows do not have", self.name,
                             f"correct the row, or name the columns to read: {self.by_name}")
        if self._plain and (texts := plain_texts(row, self._plain)):    # most rows: what follows makes the same
            prompt, *responses = texts
            if len(set(responses)) == len(responses):
                return [Record(prompt, responses, None if len(responses) == 1 else [1.0, 0.0])]
        fields = _Fields(self, row)
        record = fields.record()
        check(record, self.columns, self.empty)
        return [record, *fields.skipped]

    def joined(self, rows: list[Any]) -> list[Record | Skipped]:
        """The record of a group's rows, each with one response to the same prompt; raises BadRow."""
        records, skipped = [], []
        for index, row in enumerate(rows):
            try:
                record, *more = self.parts(row)
                if len(record.responses) != 1:
                    raise BadRow("no single response", "row", f"{len(record.responses)} responses in a row of a group",
                                 "one in each", "leave data.group null, or make the group's record by data.mapper")
                if records and record.prompt != records[0].prompt:
                    raise BadRow("prompt not shared", self._column("prompt", "messages", "response"),
                                 "another prompt than in the group's first row", "the same in all its rows",
                                 "correct the row, or name another column by data.group")
            except BadRow as bad:
                bad.row = index
                raise
            records.append(record)
            skipped += more
        scores = None if records[0].scores is None else [record.scores[0] for record in records]
        extras = [record.extras[0] if record.extras else {} for record in records]
        record = Record(records[0].prompt, [record.responses[0] for record in records], scores,
                        extras=extras if any(extras) else None)
        check(record, self.columns, self.empty)
        return [record, *skipped]

    def _column(self, *fields: str) -> str:
        return column_of(self.columns, *fields)


def check(record: Record, columns: Mapping[str, str | list[str]] = MappingProxyType({}), empty: bool = False):
    """What every record read from a file must hold, whoever made it; raises BadRow.

    columns: field → column, to name the column in the message; a mapper's records have none.
    """
    column = partial(column_of, columns)
    if not isinstance(record.prompt, str):
        for turn in record.prompt:
            if turn["role"] not in MARKS:
                raise BadRow("unknown role", "prompt", f"the role {show(turn['role'])}", "one of " + ", ".join(MARKS))
    asks = "response" not in columns or "prompt" in columns     # rows of bare responses have no prompt
    if asks and not any(text.strip() for text in _asked_texts(record.prompt)):
        raise BadRow("empty prompt", column("prompt", "chosen", "messages", "prompt"), "an empty prompt", "some text")
    for index, response in enumerate(record.responses):
        if not empty and not response.strip():
            raise BadRow("empty response", response_column(columns, index), "an empty response", "some text")
    if record.scores is not None and len(record.responses) > 1:
        _check_compared(record, columns)


def _asked_texts(prompt: str | Messages) -> list[str]:
    """The texts of a prompt without its system turns, or these where there are no others."""
    if isinstance(prompt, str):
        return [prompt]
    return [turn["content"] for turn in prompt if turn["role"] != "system"] or [turn["content"] for turn in prompt]


def _check_compared(record: Record, columns: Mapping[str, str | list[str]]):
    """Refuses a comparison of equal texts; equal scores are a tie."""
    pair, tied = len(record.responses) == 2, len(set(record.scores)) == 1
    if len(set(record.responses)) == 1 and (pair or not tied):
        raise BadRow("identical pair", column_of(columns, "rejected", "response", "responses"),
                     f"the same text {'twice' if pair else 'in all'}", "two different responses")


class _Fields:
    """One row under a layout: its fields, typed."""

    def __init__(self, layout: Layout, row: dict[str, Any]):
        self.layout, self.columns, self.row = layout, layout.columns, row
        self.skipped: list[Skipped] = []  # what of the row its record leaves out

    def record(self) -> Record:
        if "messages" in self.columns:
            prompt, answers = self._conversation()
        elif "chosen" in self.columns and "prompt" not in self.columns:
            prompt, answers = self._implicit_pair()
        elif "prompt" in self.columns:
            prompt, answers = self._answered_prompt()
        else:
            return Record("", [text_of(self._value("response"), self._column("response"))], self._scores(1))
        scores = self._scores(len(answers))
        if "chosen" in self.columns:
            scores = scores or [1.0, 0.0]
            if scores[0] < scores[1]:
                raise BadRow("scores against choice", self._column("scores"),
                             f"{scores[0]:g} for the chosen, {scores[1]:g} for the rejected response",
                             "a chosen response that scores no lower")
        return answered(prompt, answers, scores)

    def _conversation(self) -> tuple[Messages, Messages]:
        """Messages up to the last answer; a prompt beside them must be one of the user's turns,
        a response the last turn."""
        name = self._column("messages")
        messages = messages_of(self._value("messages"), name)
        judged = "label" in self.columns  # then it is the last answer that is
        kept = messages if judged else learned_part(messages)
        self.skipped += [Skipped(CUT)] if len(kept) < len(messages) else []
        prompt, answer = last_turn(kept, name)
        asked = [turn["content"] for turn in prompt if turn["role"] == "user"]
        for field, texts, which in (("prompt", asked, "one of the user's turns"),
                                    ("response", [answer["content"]], "the last turn")):
            if field in self.columns:
                text = text_of(self._value(field), self._column(field)).strip()
                if text not in map(str.strip, texts):
                    raise BadRow("not in the messages", self._column(field), show(text),
                                 f"the text of {which} in {name}",
                                 f"correct the row, or name the columns to read: {self.layout.by_name}")
        return self._with_system(prompt), [answer]

    def _implicit_pair(self) -> tuple[Messages, Messages]:
        """A pair of whole conversations."""
        names = [self._column("chosen"), self._column("rejected")]
        prompt, first = conversation_of(self._value("chosen"), names[0])
        other, second = conversation_of(self._value("rejected"), names[1])
        if prompt != other:
            raise BadRow("prompt not shared", names[1], f"another prompt than in {names[0]}", "the same in both",
                         "cut both where they part (data.mapper)")
        return self._with_system(prompt), [first, second]

    def _answered_prompt(self) -> tuple[str | Messages, Messages]:
        """A prompt and the responses beside it."""
        prompt, space = self._prompt()
        asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        full = self._with_system(asked)
        given = self._answers()
        answers = [answer_of(value, name, not isinstance(prompt, str)) for value, name in given]
        for (before, _), (value, name) in zip(answers, given):
            if before and before not in (asked, full):
                raise BadRow("prompt not shared", name, "turns before the response that are not the prompt's",
                             "the prompt, or the response alone", self._without_prompt(value))
        responses = []
        for before, answer in answers:
            if space is not None and before is None:  # plain text, which follows a transcript's last mark
                answer = {**answer, "content": (space + answer["content"]).removeprefix(" ")}
            responses.append(answer)
        turns = "system" in self.columns or any(before is not None for before, _ in answers)
        return full if turns else prompt, responses

    def _without_prompt(self, value: Any) -> str:
        """What to do where a response comes with turns of its own; messages cannot be given as a transcript."""
        columns = {"messages" if field == "response" else field: name for field, name in self.columns.items()
                   if field != "prompt"}
        transcript = "messages" in columns and isinstance(value, str) and parse_transcript(value) is not None
        fix = "data.mapper, to take them off"
        if transcript or not is_layout(columns):
            return fix
        return f"where the turns hold the prompt, leave it out: {option(columns)}; otherwise {fix}"

    def _answers(self) -> list[tuple[Any, str]]:
        """The values of all responses beside a prompt, and their columns."""
        fields = [field for field in ("chosen", "rejected", "response") if field in self.columns]
        if "responses" not in self.columns:
            return [(self._value(field), self._column(field)) for field in fields]
        names = self.columns["responses"]
        if not isinstance(names, str):
            return [(self._cell(name), name) for name in names]
        values = list_of(self._cell(names), names, "a list of texts")
        if not values:
            raise BadRow("no responses", names, "an empty list", "at least one response")
        return [(value, names) for value in values]

    def _column(self, field: str) -> str:
        return self.layout.sources.get(field, field)

    def _value(self, field: str) -> Any:
        """The value of a field's column; texts of several columns are joined by line breaks, empty ones left out."""
        names = self.columns[field]
        if isinstance(names, str):
            return self._cell(names)
        texts = []
        for index, name in enumerate(names):
            optional = index > 0 and name in OPTIONAL
            value = given(self.row, name) if optional else self._cell(name)
            texts.append("" if optional and value is None else text_of(value, name))
        return "\n".join(text for text in texts if text)

    def _cell(self, name: str) -> Any:
        return cell(self.row, name)

    def _prompt(self) -> tuple[str | Messages, str | None]:
        """The prompt without the system column, and of a transcript the white space after its last mark."""
        turns, template = None, self.layout.template
        if template is not None:
            value = "".join(text + ("" if name is None else text_of(self._cell(name), name)) for text, name in template)
        else:
            value = self._value("prompt")
            turns = (turns_listed(value, self._column("prompt")) if self.layout.listed
                     else turns_of(value, self._column("prompt")))
        if turns is not None:
            return turns, None
        parsed = parse_transcript(value)
        if parsed is None or parsed[1].strip():
            return value, None
        return parsed[0], value[len(parsed[2]):]

    def _with_system(self, prompt: Messages) -> Messages:
        if "system" not in self.columns:
            return prompt
        names = self.columns["system"]
        values = [(given(self.row, name), name) for name in ([names] if isinstance(names, str) else names)]
        texts = [text_of(value, name) for value, name in values if value is not None]
        system = "\n".join(text for text in texts if text)
        first = prompt[0] if prompt and prompt[0]["role"] == "system" else None
        if not system.strip() or first is not None and first["content"] == system:
            return prompt
        if first is not None:
            raise BadRow("two system messages", self._column("system"), "a system column and a system message", "one")
        return [{"role": "system", "content": system}, *prompt]

    def _scores(self, count: int) -> list[float] | None:
        if "label" in self.columns:
            return [label_of(self._value("label"), self._column("label"))]
        if "score" in self.columns:
            return [number_of(self._value("score"), self._column("score"))]
        if "winner" in self.columns:
            return self.layout.winners.scores(self._value("winner"), self._column("winner"))
        if "rank" in self.columns:
            return rank_scores([self._value("rank")], self._column("rank"))
        if not (field := next((one for one in ("scores", "ranks") if one in self.columns), "")):
            return None
        names, name = self.columns[field], self._column(field)
        if isinstance(names, str):
            values = list_of(self._cell(names), name, "a list of numbers")
        else:
            values = [self._cell(one) for one in names]
        if len(values) != count:
            raise BadRow("unequal lengths", name, f"{len(values)} {field} for {count} responses", "one for each")
        return rank_scores(values, name) if field == "ranks" else [number_of(value, name) for value in values]
