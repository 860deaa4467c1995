"""Who may know whom, read from the source: rooms and their floors; common knows no algorithm; nobody knows run.py."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[2]
COMMON = sorted((ROOT / "algorithms/common").rglob("*.py"))
METHODS = [path for path in sorted((ROOT / "algorithms").glob("*.py")) if path.name != "__init__.py"]
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROJECT = [ROOT / "run.py", *METHODS, *COMMON, *BENCHMARKS]
OURS = ("algorithms", "benchmarks", "run", "tests")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths):
    """One test for all paths, which names every one that breaks the rule."""
    def for_all(rule):
        def test():
            broken = []
            for path in paths:
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{name(path)}: {error}")
            assert not broken, "\n".join(broken)

        test.__doc__ = rule.__doc__
        return test

    return for_all


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Absolute dotted names of what a file imports; of ``from a import b`` both ``a`` and ``a.b``."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    nodes = at_top(tree(path)) if top_level_only else ast.walk(tree(path))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def at_top(module: ast.AST):
    """Statements that run when a module is imported."""
    for node in ast.iter_child_nodes(module):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from at_top(node)


def within(imports: set[str], *packages: str) -> set[str]:
    return {one for one in imports for package in packages if one == package or one.startswith(package + ".")}


# The rooms: a file at the top of algorithms/ or of algorithms/common, or a folder there; benchmarks are one


FLOORS = (  # a room knows rooms beneath its own floor only; imports for types and imports in functions count too
    ("support", "logprobs", "policy_gradient", "pairs", "figures"),
    ("data", "recipe"),
    ("models", "records"),
    ("algorithm",),
    ("training", "rewards"),
    ("rollouts", "candidates"),
    ("generations",),
    ("evaluation",),
    ("runs", *(path.stem for path in METHODS)),
    ("benchmarks",),
    ("run",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name: str) -> str:
    parts = name.split(".")
    return parts[2] if parts[:2] == ["algorithms", "common"] else parts[1] if parts[0] == "algorithms" else parts[0]


@cache
def file_graph() -> dict[str, set[str]]:
    """Module → the project's modules that it imports anywhere; a package stands for its own file alone."""
    files = {module(path): path for path in PROJECT if tree(path).body}
    return {name: (imported(path) & set(files)) - {name} for name, path in files.items()}


def room_graph(files: dict[str, set[str]]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, targets in files.items():
        graph.setdefault(room(name), set()).update({room(target) for target in targets} - {room(name)})
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that all reach one another."""

    @cache
    def reached(node: str) -> frozenset[str]:
        seen, waiting = set(), [node]
        while waiting:
            fresh = graph.get(waiting.pop(), set()) - seen
            seen |= fresh
            waiting += fresh
        return frozenset(seen)

    inside = [node for node in graph if node in reached(node)]
    return [set(one) for one in {frozenset(b for b in inside if b in reached(a) and a in reached(b)) for a in inside}]


def heights(graph: dict[str, set[str]]) -> dict[str, int]:
    """Each room's floor, from 1, as its imports have it; of a graph without circles."""

    @cache
    def height(one: str) -> int:
        return 1 + max(map(height, graph[one]), default=0)

    return {one: height(one) for one in graph}


def test_circles_and_heights_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [{"b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert heights({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": 3, "b": 2, "c": 1}
    assert file_graph()["algorithms.common.runs.measuring"] >= {"algorithms.common.runs.material"}  # for types
    assert "algorithms.common.models.export" in file_graph()["algorithms.common.algorithm"]  # in a function


@pytest.mark.parametrize("one", sorted(room_graph(file_graph())))
def test_a_room_knows_rooms_beneath_it_only(one):
    assert one in FLOOR, "a room that no floor has"
    assert {other for other in room_graph(file_graph())[one] if FLOOR[other] >= FLOOR[one]} == set()


def test_no_circles_between_files():
    assert circles(file_graph()) == []


def test_the_house_stays_small():
    graph = room_graph(file_graph())
    assert circles(graph) == []
    methods = {path.stem for path in METHODS}  # each comes with arrows of its own
    assert sum(len(graph[one]) for one in graph.keys() - methods) <= 57, "arrows between rooms"
    assert max(len(graph[one]) for one in methods) <= 7
    assert max(heights(graph).values()) <= 8, "floors"
    assert len([path for path in COMMON if path.parent.name == "common" and path.name != "__init__.py"]) <= 14


def test_there_is_something_to_look_at():
    assert {"dpo.py", "sft.py"} <= {path.name for path in METHODS} and len(COMMON) > 10 and len(BENCHMARKS) > 5


def test_imports_are_read_in_every_form(tmp_path):
    found = imported(ROOT / "algorithms/dpo.py")
    assert {"torch", "torch.nn.functional", "algorithms.common.algorithm", "algorithms.common.algorithm.Loss"} <= found


@each(COMMON)
def test_common_imports_no_algorithm(path):
    ours = within(imported(path), *OURS)
    assert ours == within(ours, "algorithms.common") | (ours & {"algorithms"})


@each([path for path in COMMON if path.parent.name in ("records", "instructions")])
def test_data_knows_no_model_and_no_training(path):
    ours = within(imported(path), "algorithms.common") - {"algorithms.common"}
    below = [f"algorithms.common.{one}" for one in ("data.records", "data", "support")]
    assert ours == within(ours, *below[:1], below[2], f"algorithms.common.data.{path.parent.name}") | ours & {below[1]}


@each(METHODS)
def test_an_algorithm_imports_common_and_libraries_only(path):
    ours = within(imported(path), *OURS)
    assert ours == within(ours, "algorithms.common")


@each([*PROJECT, *TESTS])
def test_nobody_imports_run(path):
    assert not within(imported(path), "run")


@each([ROOT / f"benchmarks/{one}.py"
       for one in ("report", "results_read", "aggregation", "comparison_tables", "tables", "audited", "auditor",
                   "advice", "latex", "verdict_figures", "verdict_tables")])
def test_the_report_reads_result_files_only(path):
    found = imported(path)
    assert not within(found, "torch", "transformers", "peft", "run", "benchmarks.lab")
    allowed = within(found, "algorithms.common.evaluation.inference", "algorithms.common.evaluation.verdicts",
                     "algorithms.common.support.errors")
    assert within(found, "algorithms") <= allowed | {"algorithms.common"}


@each([path for path in COMMON if path.parent.name == "inference"])
def test_inference_knows_numbers_only(path):
    known = ("algorithms.common.evaluation.inference", "numpy", "scipy", *sys.stdlib_module_names)
    assert imported(path) == within(imported(path), *known)


def test_importing_the_report_imports_neither_torch_nor_what_few_reports_need():
    unasked = ["torch", "transformers", "algorithms.common.models.model", "scipy.stats", "scipy.optimize"]
    code = f"import sys, benchmarks.report\nprint([m for m in {unasked} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@each(PROJECT)
def test_trl_is_imported_only_where_it_is_used(path):
    assert not within(imported(path, top_level_only=True), "trl")


SERVER = "algorithms/common/runs/vote/server.py"     # what an extra's packages are for


@each(PROJECT)
def test_an_extras_packages_are_imported_only_where_they_are_used(path):
    extras = [] if name(path) == SERVER else ["starlette", "uvicorn", "algorithms.common.runs.vote.server", "lm_eval",
                                               "sacrebleu", "rouge_score"]
    assert not within(imported(path, top_level_only=True), *extras)


# Algorithms are reached by their class's path in YAML


WORDS = {"rest"}  # a method's name that is also a word of the language
NAMES = {path.stem for path in METHODS} | {path.stem for path in (ROOT / "conf/algorithm").glob("*.yaml")}
NAMES -= WORDS


def strings(path: Path) -> set[str]:
    """String constants of a file, apart from documentation."""
    documentation = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
    return {node.value for node in ast.walk(tree(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation}


@each([ROOT / "run.py", *COMMON])
def test_common_knows_no_algorithm_by_name(path):
    """Neither as a string (metrics named after a baseline, such as win_rate/sft, are no names) nor as an identifier."""
    assert not {text for text in strings(path) if text.lower() in NAMES}
    words = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    words |= {node.name for node in ast.walk(tree(path)) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    words |= {node.arg for node in ast.walk(tree(path)) if isinstance(node, (ast.arg, ast.keyword)) and node.arg}
    assert not {word for word in words if word.lower() in NAMES}


@each([ROOT / "run.py", *COMMON, *METHODS])
def test_no_algorithm_is_looked_up_by_getattr_or_importlib(path):
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    called = {ast.unparse(node.func) for node in calls}
    assert not called & {"import_module", "importlib.import_module", "__import__", "globals", "eval", "exec"}
    looked_up = [ast.unparse(node) for node in calls if isinstance(node.func, ast.Name) and node.func.id == "getattr"
                 and ast.unparse(node.args[0]).startswith(("algorithms", "sys.modules"))]
    assert not looked_up


@pytest.mark.parametrize("path", sorted((ROOT / "conf/algorithm").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_algorithm_is_its_target(path):
    module, _, kind = OmegaConf.load(path)._target_.rpartition(".")
    file = ROOT / (module.replace(".", "/") + ".py")
    assert file in METHODS
    assert kind in {node.name for node in tree(file).body if isinstance(node, ast.ClassDef)}


@each(METHODS)
def test_every_algorithm_file_has_a_configuration(path):
    targets = {OmegaConf.load(yaml)._target_.rpartition(".")[0] for yaml in (ROOT / "conf/algorithm").glob("*.yaml")}
    assert f"algorithms.{path.stem}" in targets


# Safety and packaging


@each(PROJECT)
def test_nothing_is_unpickled(path):
    assert not within(imported(path), "pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, node.lineno
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, node.value.lineno


def test_the_listed_packages_are_those_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    files = [path for top in ("algorithms", "benchmarks") for path in (ROOT / top).rglob("__init__.py")]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in files}
    assert sorted(listed) == sorted(found)
    inside = [path for path in PROJECT if path.parent != ROOT]
    unlisted = {name(path) for path in inside if ".".join(path.parent.relative_to(ROOT).parts) not in found}
    assert not unlisted, "a folder with Python files and no __init__.py"


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_the_constraints_pin_what_the_project_needs_and_say_so_plainly():
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:  # no URL, no local suffix such as +cpu, no range, no marker
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.]*", pin), pin
    names = [normal(pin.partition("==")[0]) for pin in pins]
    assert len(set(names)) == len(names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert not {normal(re.match(r"[\w.-]+", one)[0]) for one in needed} - set(names)


def test_the_pins_satisfy_the_declared_ranges():
    from packaging.requirements import Requirement

    pins = dict(line.split("==")
                for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split() if "==" in line)
    pins = {normal(package): version for package, version in pins.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for one in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["test"]]):
        assert one.specifier.contains(pins[normal(one.name)]), one


def declared(project: dict) -> set[str]:
    return {normal(re.match(r"[\w.-]+", one)[0]) for one in project["dependencies"]}


def test_every_library_imported_when_the_project_starts_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = {"hydra": "hydra-core", "omegaconf": "hydra-core", "yaml": "hydra-core", "tokenizers": "transformers",
                "markupsafe": "jinja2", "vl_convert": "vl-convert-python"}
    for path in PROJECT:
        if name(path) == SERVER:
            continue
        tops = {one.partition(".")[0]
                for one in imported(path, top_level_only=True)} - set(OURS) - sys.stdlib_module_names
        missing = {normal(packages.get(top, top)) for top in tops} - declared(project)
        assert not missing, f"{name(path)}: {missing}"


def tracked() -> list[Path]:
    done = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / one for one in done.stdout.split("\0") if one]


def test_no_tracked_file_names_a_place_on_one_machine():
    places = re.compile(r"(?<![\w.}$])/(?:home|root|Users|work|mnt|tmp)/\w")
    texts = (".py", ".yaml", ".yml", ".md", ".toml", ".txt", ".json", ".csv", ".tex", ".html", ".cfg", ".run", "")
    found = []
    for path in tracked():
        if path.is_file() and path.suffix in texts and path.resolve() != Path(__file__).resolve():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name(path)}: {match[0]}" for match in places.finditer(text)]
    assert not found


def test_no_tracked_file_is_a_build_product():
    bad = re.compile(r"(^|/)(__pycache__|\.pytest_cache|\.hypothesis|outputs|multirun|[^/]+\.egg-info)/"
                     r"|\.(pyc|bin|pt|pth|pkl)$")
    assert not [name(path) for path in tracked() if bad.search(name(path))]
