"""Settings as JSON: what a stage's key holds of them."""

import dataclasses
import functools
import inspect
import sys
import types
from functools import cache
from typing import Any

from .digests import content_hash
from .errors import ConfigError
from .provenance import enclosed
from .secrets import MASK, is_secret


def plain(value: Any) -> Any:
    """Dataclasses, with their class's name, as strict JSON. It is written into the store:
    values of secrets are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        return {"class": _found_as(type(value)) or _qualified(type(value)), **fields}
    if isinstance(value, dict):
        return {str(key): MASK if is_secret(str(key)) else plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, functools.partial):
        return {"function": plain(value.func), "arguments": plain(value.args), "keywords": plain(value.keywords)}
    if hasattr(value, "__qualname__"):  # a function, a method or a class
        return _function(value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ConfigError(f"found {value!r}, whose content cannot be told; expected a function, a dataclass, or "
                          "_partial_: true")
    return value


@cache
def _function(value: Any) -> str | list | dict:
    """What tells a function from all others that the same code makes: the name under which its module has it; else
    what a method is bound to, or what the function's own code, defaults and enclosed variables are.

    As it was at first sight: a function may fill what it encloses.
    """
    if name := _found_as(value):
        return name
    of = getattr(value, "__self__", None)
    if of is not None and not isinstance(of, types.ModuleType):
        return [plain(of), value.__name__]
    if not isinstance(value, types.FunctionType):
        return _qualified(value)
    taken = {key: item for key, item in enclosed(value).items() if item is not value}
    defaults = {one.name: one.default for one in inspect.signature(value, follow_wrapped=False).parameters.values()
                if one.default is not one.empty}
    return {"function": _qualified(value), "code": content_hash(_compiled(value.__code__, value.__doc__))[:16],
            "defaults": plain(defaults), "enclosed": plain(taken)}


def _found_as(value: Any) -> str | None:
    """The dotted name under which a function's or class's module has this very one: two lambdas, two products of one
    factory, or a method of a class and of one derived from it call themselves the same."""
    module = sys.modules.get(value.__module__)
    found = module
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    if module is not None and _same(found, value):
        return _qualified(value)
    own = (name for name, item in vars(module or object).items() if _same(item, value))
    return next((f"{value.__module__}.{name}" for name in own), None)


def _same(one: Any, other: Any) -> bool:
    """Also of a method, which is another object each time that it is asked for."""
    return one is other or type(one) is type(other) is types.MethodType and one == other


def _qualified(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _compiled(code: types.CodeType, documentation: str | None) -> list:
    """What code does, and what its arguments are called, by which a scorer is given them: as JSON, but for its lines,
    its documentation, and the order of a set, which each process has its own of."""
    constants = [_compiled(one, None) if isinstance(one, types.CodeType)
                 else sorted(map(repr, one)) if isinstance(one, frozenset) else repr(one)
                 for one in code.co_consts if documentation is None or one != documentation]
    arguments = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), list(arguments), list(code.co_names), constants]
