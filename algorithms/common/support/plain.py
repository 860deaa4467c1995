"""Settings as JSON: what a stage's key holds of them."""

import dataclasses
import functools
import sys
from functools import cache
from typing import Any

from .errors import ConfigError
from .provenance import enclosed
from .secrets import MASK, is_secret


def plain(value: Any) -> Any:
    """Dataclasses, with their class's name, as strict JSON. It is written into the store:
    values of secrets are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, dict):
        return {str(key): MASK if is_secret(str(key)) else plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, functools.partial):
        return {"function": plain(value.func), "arguments": plain(value.args), "keywords": plain(value.keywords)}
    if hasattr(value, "__qualname__"):  # a function or a class
        of = getattr(value, "__self__", None)
        return [plain(of), value.__name__] if dataclasses.is_dataclass(of) else _function(value)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ConfigError(f"found {value!r}, whose content cannot be told; expected a function, a dataclass, or "
                          "_partial_: true")
    return value


@cache
def _function(value: Any) -> str | dict:
    """A function as strict JSON: its name; where no module has it, whose code would make it, what it encloses too.

    As it was at first sight: a function may fill what it encloses.
    """
    name = f"{value.__module__}.{value.__qualname__}"
    taken = {key: item for key, item in enclosed(value).items() if item is not value}
    if not taken or any(item is value for item in vars(sys.modules.get(value.__module__, object)).values()):
        return name
    return {"function": name, "enclosed": plain(taken)}
