"""Settings as JSON tell apart what the same code makes: functions that have one name, methods of several objects."""

import functools
import importlib
import sys
import textwrap

import pytest

from algorithms.common.support.errors import ConfigError
from algorithms.common.support.plain import plain

ALIKE = '''
    import functools

    up = lambda prompts, responses: [1.0 for _ in responses]
    down = lambda prompts, responses: [-1.0 for _ in responses]

    def made(sign):
        def score(prompts, responses):
            return [sign for _ in responses]
        return score

    def one_of(which):
        def score(prompts, responses, of=which):
            """Which one it is."""
            return [float(of in ("a", "b", "c")) for _ in responses]
        return (lambda p, r: [2.0 for _ in r], lambda p, r: [3.0 for _ in r], score)[which]

    def given(which):
        return {"responses": lambda responses: [float(len(one)) for one in responses],
                "prompts": lambda prompts: [float(len(one)) for one in prompts],
                "by name": lambda responses, *, prompts: responses,
                "by another name": lambda responses, *, meta: responses}[which]

    plus, minus = made(1.0), made(-1.0)

    class Weigher:
        def __init__(self, weight):
            self.weight = weight
        def score(self, prompts, responses):
            return [self.weight for _ in responses]

    heavy, light = Weigher(2.0).score, Weigher(-2.0).score

    class Long:
        SIGN = 1.0
        @classmethod
        def score(cls, prompts, responses):
            return [cls.SIGN for _ in responses]
        @staticmethod
        def flat(prompts, responses):
            return [0.0 for _ in responses]

    class Short(Long):
        SIGN = -1.0

    def negated(function):
        @functools.wraps(function)
        def other(prompts, responses):
            return [-one for one in function(prompts, responses)]
        return other

    def plain(prompts, responses):
        return [5.0 for _ in responses]

    negative = negated(plain)
    '''


@pytest.fixture
def alike(tmp_path, monkeypatch):
    """The module's text, edited, as a new process imports it."""
    monkeypatch.syspath_prepend(tmp_path)

    def imported(before: str = "", after: str = ""):
        text = textwrap.dedent(ALIKE)
        assert before in text
        (tmp_path / "alike.py").write_text(text.replace(before, after) if before else text)
        monkeypatch.delitem(sys.modules, "alike", raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("alike")

    return imported


@pytest.mark.parametrize("one, other", [
    ("up", "down"), ("plus", "minus"), ("heavy", "light"), ("Long.score", "Short.score"), ("plain", "negative"),
    ("made(1.0)", "made(-1.0)"), ("one_of(0)", "one_of(1)"), ("one_of(2)", "one_of(-1)"),
    ("negated(plain)", "negated(up)"), ("given('responses')", "given('prompts')"),
    ("given('by name')", "given('by another name')")])
def test_two_functions_of_one_name_are_two(alike, one, other):
    module = vars(alike())
    first, second = (plain(functools.partial(eval(name, module))) for name in (one, other))
    assert first["function"] == plain(eval(one, module)) != second["function"]


def test_a_function_is_named_as_its_module_has_it(alike):
    module = alike()
    functions = (module.plain, module.up, module.Long.flat, module.Short.flat, module.Long.score, len)
    assert [plain(one) for one in functions] \
        == ["alike.plain", "alike.up", "alike.Long.flat", "alike.Long.flat", "alike.Long.score", "builtins.len"]
    assert plain(module.Short.score) == ["alike.Short", "score"]


@pytest.mark.parametrize("name", ["up", "plus", "heavy", "Short.score", "made(1.0)", "one_of(0)", "one_of(2)"])
def test_the_same_function_is_the_same_in_another_process(alike, name):
    told = [plain(eval(name, vars(alike(*edit)))) for edit in (
        (), ("import functools", "import functools  # to wrap\n\n"), ("Which one it is", "What it is"))]
    assert told[0] == told[1] == told[2]


def test_a_method_of_an_object_that_no_module_has_is_refused(alike):
    with pytest.raises(ConfigError, match="Weigher object.*whose content cannot be told; expected a function"):
        plain(alike().Weigher(1.0).score)
