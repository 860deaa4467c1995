"""Command lines of KEY=VALUE …, as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TypeVar

Plan = TypeVar("Plan")


def parse(plan: type[Plan], arguments: Sequence[str], allowed: Mapping[str, Sequence[str]]) -> Plan:
    """Its fields' defaults are of the type that is read: a text, a whole number above 0, or a tuple of texts.

    allowed: field → what it may be. SystemExit with a message for what it does not know.
    """
    kinds = {field.name: type(field.default) for field in fields(plan)}
    told = {}
    for argument in arguments:
        key, _, text = argument.partition("=")
        if key not in kinds:
            raise SystemExit(f"{argument}: found no such setting; expected KEY=VALUE with one of {', '.join(kinds)}; "
                             "fix: --help says what they are")
        if kinds[key] is int and not (text.isdecimal() and int(text) > 0):
            raise SystemExit(f"{key}: found {text!r}; expected a whole number above 0; fix: {key}=1")
        chosen = tuple(text.split(",")) if kinds[key] is tuple else (text,)
        if unknown := set(chosen) - set(allowed.get(key, chosen)):
            raise SystemExit(f"{key}: found {', '.join(sorted(unknown))}; expected some of {', '.join(allowed[key])}; "
                             f"fix: {key}={allowed[key][0]}")
        told[key] = chosen if kinds[key] is tuple else kinds[key](text)
    return plan(**told)
