"""Our fields: which of them make a layout, what columns are read as them by convention, how data.columns names them."""

from collections.abc import Iterable, Mapping

from .lines import hydra_text, override

FIELDS = ("prompt", "system", "chosen", "rejected", "response", "responses", "scores", "score", "label", "messages",
          "winner", "rank", "ranks")
LAYOUTS = {
    frozenset(layout.split()) for layout in (
        "prompt chosen rejected", "prompt chosen rejected scores", "chosen rejected", "prompt response",
        "prompt response label", "prompt response score", "prompt responses scores", "prompt responses", "messages",
        "prompt responses winner", "prompt responses ranks", "prompt response rank",
        "messages label", "prompt", "response")
}
CONVENTIONS = {                     # column → the field it is read as
    "prompt": "prompt", "question": "prompt", "instruction": "prompt", "inputs": "prompt",
    "system": "system", "system_prompt": "system",
    "chosen": "chosen", "response_chosen": "chosen", "chosen_response": "chosen", "chosen_messages": "chosen",
    "rejected": "rejected", "response_rejected": "rejected", "rejected_response": "rejected",
    "rejected_messages": "rejected",
    "completion": "response", "response": "response", "answer": "response", "output": "response", "targets": "response",
    "text": "response", "responses": "responses", "scores": "scores", "score": "score", "label": "label",
    "messages": "messages", "conversations": "messages", "conversation": "messages", "input": "input",
}
OPTIONAL = {name for name, field in CONVENTIONS.items() if field in ("system", "input")}    # columns that rows may lack


def column_of(columns: Mapping[str, str | list[str]], *fields: str) -> str:
    """What the first of these fields that there is is read from, or the name of the last."""
    name = next((columns[field] for field in fields if field in columns), fields[-1])
    return name if isinstance(name, str) else " + ".join(name)


def response_column(columns: Mapping[str, str | list[str]], index: int) -> str:
    """The column that a record's response was read from, by its place in the record."""
    names = columns.get("responses")
    if names is not None and not isinstance(names, str):
        return names[index]
    return column_of(columns, "rejected" if index else "chosen", "response", "messages", "responses")


def is_layout(fields: Iterable[str]) -> bool:
    """Whether these fields may be named by data.columns."""
    fields = frozenset(fields)
    return fields - {"system"} in LAYOUTS and fields != {"system", "response"}


def option(columns: Mapping[str, str | list[str]]) -> str:
    """data.columns as on the command line."""
    named = (f"{field}: {hydra_text(name) if isinstance(name, str) else '[' + ', '.join(map(hydra_text, name)) + ']'}"
             for field, name in columns.items())
    return override("data.columns", "{" + ", ".join(named) + "}")
