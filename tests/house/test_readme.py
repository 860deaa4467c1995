"""Commands on the README's and docs' pages are right: each composes, and the two that matter most are what CI runs."""

import re
import shlex
import sys
import types

import pytest
from omegaconf import OmegaConf

from algorithms.common.runs.settings import settings
from command_line import ROOT, choices, composed, job_overrides, objects_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = "pip install -e . -c constraints.txt && python run.py experiment=compare"
TEST = "pip install -e '.[test]' -c constraints.txt && pytest -n 2"


def code_lines(text: str) -> list[str]:
    """Lines of code blocks, fenced or indented by four spaces, without comments."""
    lines, fenced = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(re.sub(r"\s+#.*", "", line).strip())
    return lines


def runs(text: str) -> list[str]:
    """Every ``python run.py`` command of a text's code blocks, without what stands before it on its line."""
    found = [match[0].strip() for line in code_lines(text) for match in re.finditer(r"python run\.py[^&|;]*", line)]
    return list(dict.fromkeys(found))


PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", ROOT / "benchmarks/lab/README.md", *sorted((ROOT / "docs").glob("*.md")))}
COMMANDS = list(dict.fromkeys(command for text in PAGES.values() for command in runs(text)))
CHECKS = runs((ROOT / ".ci/run").read_text(encoding="utf-8").replace("python", "    python"))


def test_code_blocks_of_both_kinds_are_read():
    text = ("a `python run.py no=1`\n\n    python run.py a=1  # why\n\n"
            "```bash\nx && python run.py -m b=1,2 | tee log\n```\nnot python run.py c=1\n")
    assert runs(text) == ["python run.py a=1", "python run.py -m b=1,2"]


def test_the_two_commands_that_matter_stand_in_the_readme_as_they_are():
    assert INSTALL in code_lines(README) and TEST in code_lines(README)
    assert len(COMMANDS) > 5


def test_the_checks_run_the_readmes_test_command():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert TEST in [line.strip() for line in script]


@pytest.fixture
def modules(monkeypatch):
    """The functions that the pages show, as the modules that its commands name."""
    blocks = [block for text in PAGES.values() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    for name, function in (("my_rows", "to_record"), ("my_reward", "exact")):
        (text,) = [block for block in blocks if f"def {function}(" in block]
        module = types.ModuleType(name)
        exec(text, vars(module))
        monkeypatch.setitem(sys.modules, name, module)


def without_engines(arguments):
    """Without what only a plugin of Hydra that may not be installed can read, and with one value of a range."""
    hydra = re.compile(r"\+?hydra[/.](launcher|sweeper)\b")
    return [re.sub(r"=tag\(.*interval\(([^,]+),.*", r"=\1", one) for one in arguments if not hydra.match(one)]


def test_what_only_plugins_read_is_left_out():
    assert without_engines(["-m", "seed=0,1", "hydra/launcher=ray", "+hydra.launcher.ray.x=1", "hydra.run.dir=x",
                            "a.b=tag(log,interval(0.03,1))"]) == ["-m", "seed=0,1", "hydra.run.dir=x", "a.b=0.03"]


@pytest.mark.parametrize("command", COMMANDS + CHECKS)
def test_every_command_composes(command, modules):
    arguments = without_engines(shlex.split(command.replace("…", "x"))[2:])
    if "--help" in arguments or "--cfg" in arguments:
        return
    overrides = [argument for argument in arguments if "=" in argument]
    assert set(arguments) - set(overrides) <= {"-m", "--multirun"}
    for job in {tuple(objects_of(job)) for job in job_overrides(*arguments)}:
        config = composed(*job)
        assert not OmegaConf.missing_keys(config), "the reader is told every value that is needed"
        if not any(item.startswith("task=") for item in job):
            settings(config)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_linked_exists(page):
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
               if not re.match(r"\w+:", target)]
    assert not [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]


def test_every_algorithm_of_the_readme_exists_and_every_one_is_listed():
    named = set(",".join(re.findall(r"\balgorithm=([\w,]+)", "\n".join(PAGES.values()))).split(","))
    assert named <= set(choices("algorithm"))
    files = [path.relative_to(ROOT).as_posix()
             for path in (ROOT / "algorithms").glob("*.py") if path.name != "__init__.py"]
    assert not [file for file in files if f"({file})" not in README]
