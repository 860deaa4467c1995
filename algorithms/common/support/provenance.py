"""What numbers come from besides settings and data: the code that computes them, and the libraries' versions.

    objects → their modules → all that these import, read from source without running it → module: digest

Followed are imports in functions too, and by ``import_module`` of a name that is written out, and all modules outside
the standard library and site-packages; not what is imported for types alone (``if TYPE_CHECKING``). Where a module
imports a name only to hand it on, the module that makes the name stands for it, so a package of re-exports does not
bind together what it lists. In the project an import in a function counts once something names the function: what a
base class does when it is evaluated is no part of training.
Comments, documentation and layout are no part of a digest (``parsing``).

Sources are read when this module is imported, a user's when the configuration names them (``note``): a run whose files
are edited meanwhile computes with the old code, and keeps under the old code's digests.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import platform
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ConfigError
from .parsing import Import, Module, parsed

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "accelerate")  # of every stage
_OWN = __name__.partition(".")[0]


class Origin(NamedTuple):
    """Where a module would be imported from."""

    file: Path | None  # None: a package without __init__.py
    folders: list[str] | None  # of a package


def code_of(*objects: Any) -> dict[str, str]:
    """Module → digest of its code, for all modules that the functions and classes in ``objects`` compute with.

    A library's functions stand with its version. ConfigError for what no source or library can be found for.
    """
    return SOURCES.closure(frozenset(origins(objects)))


def written_in(kind: type) -> dict[str, str]:
    """The module of a class → digest of its code, without what it imports."""
    return {kind.__module__: SOURCES.module(kind.__module__).digest}


def note(*objects: Any) -> None:
    """Reads the sources of users' modules among the objects' as they are, which is as they were imported: what is
    edited before a stage needs it, hours later in a sweep, is kept under the code that ran."""
    for name, what in origins(objects):
        if name.partition(".")[0] != _OWN and SOURCES.module(name) is not None:
            SOURCES.closure(frozenset({(name, what)}))


@cache
def versions() -> dict[str, str]:
    """Library → installed version, of those that every stage computes with."""
    return installed(LIBRARIES)


def installed(libraries: Iterable[str]) -> dict[str, str]:
    """Library → version, of those that are installed."""
    found = {}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def files_of(names: Iterable[str]) -> list[Path]:
    """The source files of dotted names, which are not run; nothing for libraries and for names that are not found."""
    found = []
    for name in names:
        while name and (where := _where(name)) is None:
            name = name.rpartition(".")[0]
        if name and where.file is not None and not _in_library(where.file):
            found.append(where.file)
    return found


def origins(value: Any, seen: tuple[int, ...] = ()) -> Iterator[tuple[str, str]]:
    """(module, qualified name) of all classes and functions in a value: in fields, partials, what functions enclose."""
    if value is None or isinstance(value, (str, int, float, bytes)) or id(value) in seen:
        return
    names, parts = _opened(value)
    yield from names
    for part in parts:
        yield from origins(part, (*seen, id(value)))


def _opened(value: Any) -> tuple[list[tuple[str, str]], list[Any]]:
    """The names that a value itself has, and the values that lie in it."""
    if isinstance(value, dict):
        return [], list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [], list(value)
    if isinstance(value, functools.partial):
        return [], [value.func, value.args, value.keywords]
    if isinstance(value, type):
        ours = [base for base in value.__mro__ if base.__module__.partition(".")[0] not in sys.stdlib_module_names]
        return [(base.__module__, base.__qualname__) for base in ours], []
    if hasattr(value, "__qualname__"):  # a function, or a method
        names = [(value.__module__ or "builtins", value.__qualname__)]
        if made := getattr(value, "__globals__", None):  # functools.wraps gives a function the module of another
            names.append((made["__name__"], value.__code__.co_qualname))
        return names, [getattr(value, "__wrapped__", None), getattr(value, "__self__", None), *enclosed(value).values()]
    if type(value).__name__ == "module":
        return [], []
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    return [], [type(value), *(getattr(value, one.name) for one in fields)]


def enclosed(function: Any) -> dict[str, Any]:
    """The variables that a function took with it from the function it was made in."""
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(function.__code__.co_freevars if cells else (), cells):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


class Sources:
    """Modules by name, each as it was when it was first looked at, the project's when this was made."""

    def __init__(self):
        self._bytes: dict[Path, bytes] = {}
        self._modules: dict[str, Module | None] = {}
        self._closures: dict[frozenset[tuple[str, str]], dict[str, str]] = {}
        own = Path(sys.modules[_OWN].__path__[0]).resolve()
        beside = [] if _in_library(own) else [init.parent for init in own.parent.glob("*/__init__.py")]
        for folder in {own, *beside}:
            for file in folder.rglob("*.py"):
                self._read(file)
        self._local = frozenset(self._bytes)

    def closure(self, roots: frozenset[tuple[str, str]]) -> dict[str, str]:
        if roots not in self._closures:
            self._closures[roots] = self._closed(roots)
        return dict(self._closures[roots])

    def _closed(self, roots: frozenset[tuple[str, str]]) -> dict[str, str]:
        found: dict[str, str] = {}
        names = {part for _, name in roots for part in name.split(".")}
        waiting: list[tuple[str, str]] = []  # name of a function, module it imports
        queue = []
        for name, what in sorted(roots):
            if self.module(name) is None:
                found.update(_library(name, what))
            else:
                queue.append(name)
        while queue:
            name = queue.pop()
            if name not in found:
                module = self.module(name)
                found[name] = module.digest
                names |= module.names
                queue += self._reached(module.imports, module.local, found)
                for function, one in module.later:
                    waiting += [(function, target) for target in self._reached([one], module.local, found)]
            if not queue:
                queue = [target for function, target in waiting if function in names and target not in found]
        return dict(sorted(found.items()))

    def _reached(self, imports: list[Import], local: bool, found: dict[str, str]) -> list[str]:
        """The modules that imports lead to; libraries that a user's module imports are noted with their version."""
        reached = []
        for one in imports:
            for name in self._targets(one, ()):
                if self.module(name) is not None:
                    reached.append(name)
                elif not local and name.partition(".")[0] not in sys.stdlib_module_names:
                    found.update(_version(name))
        return reached

    def _targets(self, one: Import, seen: tuple[Import, ...]) -> Iterator[str]:
        module = self.module(one.module)
        parent = one.module if one.name and module is not None and module.package else one.module.rpartition(".")[0]
        if one.name is None or one.name == "*":
            yield one.module
        elif module is not None and one.name in module.bound:
            makers = module.bound[one.name]
            if makers is None or one in seen:
                yield one.module
            else:
                for maker in makers:
                    yield from self._targets(maker, (*seen, one))
        elif self.module(f"{one.module}.{one.name}") is not None:
            yield f"{one.module}.{one.name}"
        else:
            yield one.module
        while parent:  # a package runs before what lies in it
            if (package := self.module(parent)) is not None and not package.hands_on:
                yield parent
            parent = parent.rpartition(".")[0]

    def module(self, name: str) -> Module | None:
        """A module that is followed; None for libraries, packages without code, and what is not there."""
        if name not in self._modules:
            self._modules[name] = None  # a cycle of packages ends here
            top = name.partition(".")[0]
            where = None if top in sys.stdlib_module_names and top != "__main__" or top in LIBRARIES else _where(name)
            if where and where.file and (top == _OWN or not _in_library(where.file)):
                self._modules[name] = self._parsed(name, where)
        return self._modules[name]

    def _parsed(self, name: str, where: Origin) -> Module | None:
        try:
            content = self._read(where.file)
        except OSError:
            return None
        local = where.file in self._local
        if where.file.suffix != ".py":
            return Module(hashlib.sha256(content).hexdigest()[:16], local, hands_on=False)
        module = parsed(content, name if where.folders is not None else name.rpartition(".")[0], local)
        module.package = where.folders is not None
        return module

    def _read(self, file: Path) -> bytes:
        if file not in self._bytes:
            self._bytes[file] = file.read_bytes()
        return self._bytes[file]


def _where(name: str) -> Origin | None:
    """Where a module comes from, found as an import would find it, without running it or its packages."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        file, folders = getattr(loaded, "__file__", None), getattr(loaded, "__path__", None)
        return Origin(Path(file).resolve() if file else None, None if folders is None else list(folders))
    parent, _, _ = name.rpartition(".")
    above = _where(parent) if parent else None
    if parent and (above is None or above.folders is None):
        return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = find(name, above.folders if above else None) if find else None
        if spec is not None:
            file = Path(spec.origin).resolve() if spec.has_location and spec.origin else None
            folders = spec.submodule_search_locations
            return Origin(file, None if folders is None else list(folders))
    return None


@cache
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(Path(one).resolve() for one in {*found, *site.getsitepackages(), site.getusersitepackages()})


@cache
def _in_library(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or any(
        file.is_relative_to(folder) for folder in _library_folders())


def _library(module: str, name: str) -> dict[str, str]:
    """The version that stands for a function without a source of its own to follow. ConfigError where there is none."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return {top: f"python {platform.python_version()}"}
    if found := _version(module):
        return found
    raise ConfigError(f"{name}: found a function or class of {module}, whose source cannot be found; expected one in a "
                      "file or an installed library: what is kept would not notice an edit; fix: write it into one")


@cache
def _owners() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


@cache
def _version(module: str) -> dict[str, str]:
    """Top-level package of a library → its distributions' versions; empty for what is no installed library."""
    top = module.partition(".")[0]
    owners = [top] if installed([top]) else sorted(set(_owners().get(top, [])))
    return {top: ", ".join(f"{name} {version}" for name, version in installed(owners).items())} if owners else {}


SOURCES = Sources()
