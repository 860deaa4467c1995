"""Keys hold the code that computes: what an edit changes, what it does not, and which modules a stage computes with."""

import functools
import importlib
import importlib.metadata
import operator
import re
import sys
import textwrap
import types

import pytest

from algorithms.best_of_n import BestOfN
from algorithms.common.candidates import Candidates
from algorithms.common.runs import measuring, training
from algorithms.common.runs.results import _targets
from algorithms.common.support import provenance
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.provenance import Import, Sources, code_of, files_of, parsed
from algorithms.common.training.references import StoredLogprobs
from algorithms.dpo import DPO
from algorithms.ppo import PPO
from algorithms.reward_model import RewardModel
from algorithms.rrhf import RRHF
from algorithms.sft import SFT
from command_line import ROOT


def digest(source: str) -> str:
    return parsed(textwrap.dedent(source).encode(), "", True).digest


LOSS = '''
    """A loss."""
    import math

    def loss(x, y=1):
        """Of x."""
        return -math.log(x) + y
'''


@pytest.mark.parametrize("before, after", [
    ('"""A loss."""', '"""Another text."""'), ('        """Of x."""\n', ""),
    ("    import math\n", "    import math  # logarithms\n\n\n"),
    ("return -math", "return - math"), ("(x, y=1)", "(\n            x,\n            y=1,\n        )"),
    ("    import math\n",
     "    import math\n    from typing import TYPE_CHECKING\n    if TYPE_CHECKING:\n        import abc\n")],
    ids=["documentation", "no documentation", "comment", "space", "lines", "types"])
def test_what_is_no_code(before, after):
    assert before in LOSS
    more = "    from typing import TYPE_CHECKING\n" if "TYPE_CHECKING" in after else ""
    assert digest(LOSS.replace("    import math\n", "    import math\n" + more)) == digest(LOSS.replace(before, after))


@pytest.mark.parametrize("before, after", [
    ("-math", "math"), ("y=1", "y=2"), ("y=1", "y=1.0"), ("import math", "import cmath as math"), 
    ("def loss", "def lost"), ("return", "print('x')\n        return")])
def test_what_is_code(before, after):
    assert digest(LOSS) != digest(LOSS.replace(before, after))


# Modules of a project in a temporary folder


FILES = {
    "zoo/__init__.py": "",
    "zoo/method.py": '''
        from typing import TYPE_CHECKING
        from .base import Base
        from .listed import used
        import zoo.deep.inner
        if TYPE_CHECKING:
            from . import only_types
        class Method(Base):
            def fit(self):
                return used()
        ''',
    "zoo/base.py": '''
        class Base:
            def fit(self):
                from .loop import fit
                return fit(self)
            def answer(self):
                from .sampling import sample
                return sample(self)
        ''',
    "zoo/loop.py": "def fit(method): return method.loss",
    "zoo/sampling.py": "def sample(method): return method.answer()",
    "zoo/asking.py": "from .method import Method\ndef ask(method): return method.answer()",
    "zoo/listed/__init__.py": '"""All."""\nfrom .one import used\nfrom .two import other\n__all__ = ["used", "other"]',
    "zoo/listed/one.py": "def used(): return 1",
    "zoo/listed/two.py": "def other(): return 2",
    "zoo/deep/__init__.py": "SETTING = 1",
    "zoo/deep/inner.py": "from . import SETTING",
    "zoo/only_types.py": "",
    "helper.py": "from constants import LENGTH\ndef measure(r): return LENGTH * len(r)",
    "constants.py": "LENGTH = 1",
    "late.py": "",
    "named.py": "",
    "score.py": '''
        import functools, json, numpy
        from dataclasses import dataclass
        from helper import measure
        def score(prompts, responses):
            import importlib
            import late
            importlib.import_module("named")
            return [measure(r) for r in responses]
        @dataclass
        class Scored:
            weight: float = 1.0
            def __call__(self, prompts, responses):
                return [self.weight for r in responses]
        def weighted(weight):
            def one(prompts, responses):
                return [weight for r in responses]
            return one
        ''',
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes files, and tells the code of an object of ``module`` as a new process would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(textwrap.dedent(text))

    def code(module: str, name: str, changed: dict[str, str] | None = None) -> dict[str, str]:
        write({**FILES, **(changed or {})})
        importlib.invalidate_caches()
        ours = {re.split(r"[./]", file)[0] for file in FILES}
        for loaded in [one for one in sys.modules if one.partition(".")[0] in ours]:
            monkeypatch.delitem(sys.modules, loaded)
        found = getattr(importlib.import_module(module), name)
        sources = Sources()
        sources._local = frozenset(path.resolve() for path in (tmp_path / "zoo").rglob("*.py"))
        monkeypatch.setattr(provenance, "SOURCES", sources)
        return code_of(found)

    code.folder = tmp_path
    return code


def test_imports_are_followed(project):
    """In functions, through packages, not for types; a package of re-exports leads to what makes the name."""
    whole = {"zoo.method", "zoo.base", "zoo.listed.one", "zoo.deep", "zoo.deep.inner"}
    assert set(project("zoo.method", "Method")) == whole
    assert set(project("zoo.loop", "fit")) == {"zoo.loop"}


def test_an_import_in_a_function_counts_where_something_names_the_function(project):
    assert "zoo.sampling" not in project("zoo.method", "Method")
    assert {"zoo.sampling", "zoo.method"} <= set(project("zoo.asking", "ask"))
    assert "zoo.loop" in project("zoo.method", "Method", {"zoo/deep/inner.py": "def run(method): method.fit()"})


@pytest.mark.parametrize("source, package, module", [
    ("import importlib\nimportlib.import_module('a.b')", "", "a.b"), ("__import__('a')", "zoo", "a"),
    ("from importlib import import_module\nimport_module('..c', __package__)", "zoo.deep", "zoo.c"),
    ("import_module(name)", "", None), ("asked('a')", "", None)])
def test_a_module_is_imported_by_a_name_that_is_written_out(source, package, module):
    imports = [one for one in parsed(source.encode(), package, True).imports if one.module != "importlib"]
    assert imports == [Import(module)] * (module is not None)


def test_a_users_module_counts_with_all_that_it_imports(project):
    found = project("score", "score")
    assert {"score", "helper", "constants", "late", "named"} <= set(found) and "json" not in found
    assert found["numpy"] == f"numpy {importlib.metadata.version('numpy')}"
    edited = project("score", "score", {"constants.py": "LENGTH = -1"})
    assert {name for name in found if found[name] != edited[name]} == {"constants"}
    assert project("score", "score", {"constants.py": "LENGTH = 1  # the usual"}) == found


def test_partials_dataclasses_methods_and_decorated_functions(project):
    whole = project("score", "score")
    module = sys.modules["score"]
    scored = module.Scored()
    wrapped = functools.wraps(len)(module.score)  # says that it is another's
    for one in (functools.partial(module.score, []), scored, scored.__call__, {"a": [module.weighted(2.0)]}, wrapped):
        assert set(whole) <= set(code_of(one)), one


def test_a_process_keeps_the_code_it_began_with(project):
    before = project("score", "score")
    (project.folder / "helper.py").write_text("def measure(r): return 0")
    assert code_of(sys.modules["score"].score) == before
    assert project("score", "score", {"helper.py": "def measure(r): return 0"}) != before


def test_a_function_of_a_library_stands_with_its_version():
    assert code_of(len) == {"builtins": f"python {sys.version.split()[0]}"}
    assert code_of(operator.itemgetter) == {}
    assert code_of(pytest.approx) == {"_pytest": f"pytest {pytest.__version__}"}


def test_what_has_no_source_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "typed_in", types.ModuleType("typed_in"))
    function = eval("lambda prompts, responses: responses", {"__name__": "typed_in"})
    with pytest.raises(ConfigError, match="found a function or class of typed_in, whose source cannot be found"):
        code_of(function)


def test_an_installed_library_is_not_followed():
    import transformers

    assert code_of(transformers.AutoModel) == {"transformers": f"transformers {transformers.__version__}"}


# The project's own stages


def computing(*objects) -> set[str]:
    """Their modules, whatever packages these lie in."""
    return {name.rpartition(".")[2] for name in code_of(*objects)}


@pytest.mark.parametrize("method", [SFT(), DPO(), PPO(), RewardModel(), RRHF(), BestOfN()],
                         ids=lambda one: type(one).__name__)
def test_a_trained_stage_computes_with_its_method_and_no_other(method):
    found = computing(training.train, method)
    own = type(method).__module__.rpartition(".")[2]
    methods = {"sft", "dpo", "ppo", "reward_model", "rrhf", "best_of_n"}
    assert found & methods == {own}
    assert {"training", "loop", "model", "batches", "template", "roles", "optim", "logprobs", "seeds"} <= found
    assert not found & {"evaluate", "measuring", "stages", "store", "results", "settings", "readers", "loading"}
    assert ("sampling" in found) == (own != "sft"), "it samples nothing, the others or a variant beside them do"
    assert ("making" in found) == (own in ("rrhf", "dpo")), "candidates"


def test_an_evaluation_computes_with_what_answers_and_measures():
    found = computing(measuring.measure, SFT())
    assert {"measuring", "evaluate", "sampling", "choices", "model", "sft"} <= found
    assert not found & {"training", "loop", "stages", "store", "results", "readers", "loading"}


def test_kept_candidates_and_references():
    found = computing(Candidates())
    assert {"making", "sources", "sampling", "beam"} <= found and not found & {"training", "loop"}
    found = computing(StoredLogprobs)
    assert {"references", "model", "logprobs"} <= found and not found & {"training", "loop", "sampling"}


def test_the_files_of_what_a_config_names(tmp_path, monkeypatch):
    (tmp_path / "rewards_of_mine.py").write_text("raise RuntimeError('not run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"reward": {"function": {"_target_": "rewards_of_mine.exact", "scale": [{"_target_": "math.sqrt"}]}},
              "algorithm": {"_target_": "algorithms.dpo.DPO"}, "data": {"_target_": "???"}, "seed": 0}
    names = list(_targets(config))
    assert names == ["rewards_of_mine.exact", "math.sqrt", "algorithms.dpo.DPO"]
    assert files_of([*names, "nowhere.at.all", "torch.nn.Linear"]) == [
        tmp_path / "rewards_of_mine.py", ROOT / "algorithms/dpo.py"]
