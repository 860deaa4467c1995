"""A module as its source says, without running it: a digest of what it does, its imports, and the names it mentions."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

_BLOCKS = ("body", "orelse", "finalbody")
_OF_STATEMENTS = (ast.mod, ast.stmt, ast.excepthandler, ast.match_case)  # nodes that may have blocks


class Import(NamedTuple):
    """``import module`` or, with a name, ``from module import name``."""

    module: str
    name: str | None = None


@dataclass
class Module:
    """A module's source, read once."""

    digest: str
    local: bool  # the project's own
    imports: list[Import] = field(default_factory=list)  # that run when it is imported
    later: list[tuple[str, Import]] = field(default_factory=list)  # in a function, with the function's name
    bound: dict[str, list[Import] | None] = field(default_factory=dict)  # names; None: made here, not only imported
    names: set[str] = field(default_factory=set)  # all that it mentions, but for a function's own in the function
    hands_on: bool = True  # it holds imports alone
    package: bool = False


def parsed(source: bytes, package: str, local: bool) -> Module:
    """The module of a source; ``package``: what its relative imports start from."""
    tree = ast.parse(source)
    module = Module("", local)
    stack: list[tuple[ast.AST, str | None]] = [(tree, None)]  # with the function it lies in
    while stack:
        node, function = stack.pop()
        if isinstance(node, _OF_STATEMENTS):
            _drop_what_does_nothing(node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _note(module, node, package, function)
            continue
        if name := _asked_for(node):
            bare = name.lstrip(".")
            _add(module, Import(_absolute(bare, len(name) - len(bare), package)), function)
        module.names |= _mentioned(node, function)
        if name := _made_by(node, function):
            module.bound[name] = None
        if function is None and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        stack += [(child, function) for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]
    module.hands_on = all(isinstance(one, (ast.Import, ast.ImportFrom)) or _assigns_all(one) for one in tree.body)
    module.digest = hashlib.sha256(ast.dump(tree).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return module


def _drop_what_does_nothing(node: ast.AST) -> None:
    for block in _BLOCKS:
        if isinstance(body := getattr(node, block, None), list):
            body[:] = [one for one in body if not _does_nothing(one)]


def _asked_for(node: ast.AST) -> str | None:
    """The module in ``import_module("module")``, where it is written out."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    name, asks = node.args[0].value, ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__")
    return name if asks and isinstance(name, str) else None


def _mentioned(node: ast.AST, function: str | None) -> set[str]:
    """The name that a node mentions, but for the function's own in the function."""
    if isinstance(node, ast.Name):
        return {node.id} - {function}
    if isinstance(node, ast.Attribute):
        return {node.attr} - {function}
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)  # as getattr is asked
    return {node.value} if text else set()


def _made_by(node: ast.AST, function: str | None) -> str | None:
    """The name that a node gives to something of this module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name if function is None else None
    return node.id if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else None


def _note(module: Module, node: ast.Import | ast.ImportFrom, package: str, function: str | None) -> None:
    if isinstance(node, ast.Import):
        made = [(alias.asname or alias.name.partition(".")[0], Import(alias.name)) for alias in node.names]
    else:
        base = _absolute(node.module, node.level, package)
        made = [(alias.asname or alias.name, Import(base, alias.name)) for alias in node.names]
    module.names |= {one.name for _, one in made if one.name} - {function}
    for name, one in made:
        _add(module, one, function)
        if function is None and (makers := module.bound.setdefault(name, [])) is not None:
            makers.append(one)


def _absolute(name: str | None, level: int, package: str) -> str:
    """A module's whole name; level: the dots before it, from which package it is counted."""
    above = package.split(".")[:len(package.split(".")) - level + 1] if level else []
    return ".".join([*above, *([name] if name else [])])


def _add(module: Module, one: Import, function: str | None) -> None:
    if function is not None and module.local and not (function.startswith("__") and function.endswith("__")):
        module.later.append((function, one))
    else:
        module.imports.append(one)


def _does_nothing(node: ast.stmt) -> bool:
    """Documentation, other values that nobody takes, and imports for types alone."""
    if isinstance(node, ast.If) and not node.orelse:
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _assigns_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == ["__all__"]
