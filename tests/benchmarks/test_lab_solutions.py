"""Worked solutions of the lab: what is shown, what is asked, and that nothing trained on is evaluated."""

import pytest
from hydra.utils import instantiate

from algorithms.common.data.final_answers import is_right
from algorithms.common.support.errors import ConfigError
from benchmarks.lab.chains import worked
from benchmarks.lab.solutions_data import FORMS, KINDS, SolutionsData
from command_line import composed


@pytest.fixture(scope="module")
def sets():
    return SolutionsData(demonstrations=20).load(seed=0)


def questions(records):
    """Without the form that asks for steps."""
    return {record.prompt.partition("?")[0] for record in records}


def test_sizes(sets):
    trained, others = (sum(len(worked(kind)[side]) for kind in KINDS) for side in (0, 1))
    assert (len(sets.demonstrations), len(sets.prompts)) == (20, len(FORMS) * trained)
    assert len(sets.tuning) + len(sets.evaluation) == others and len(sets.tuning) == pytest.approx(others / 4, abs=2)
    assert len(questions(sets.prompts)) == trained and len(questions(sets.evaluation)) == len(sets.evaluation)
    assert sets.report.sources["days"]["prompts"] == len(FORMS) * len(worked("days")[0])


def test_questions_are_divided(sets):
    parts = [questions(getattr(sets, name)) for name in ("prompts", "tuning", "evaluation")]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert questions(sets.demonstrations) <= parts[0]


def test_solutions_end_in_the_answer_that_is_checked(sets):
    for record in (*sets.demonstrations, *sets.tuning, *sets.evaluation):
        (solution,) = record.responses
        assert is_right(solution, record.meta["answer"]) and sets.measure(record, solution, True) == {
            "accuracy/exact": 1.0, f"accuracy/exact/{record.meta['kind']}": 1.0}
        assert not is_right(solution.partition(" So the answer")[0] + " So the answer is 99.", record.meta["answer"])


def test_the_seed_draws_what_is_shown_and_nothing_of_what_is_evaluated(sets):
    other = SolutionsData(demonstrations=20).load(seed=1)
    assert [one.prompt for one in other.evaluation] == [one.prompt for one in sets.evaluation]
    assert [one.prompt for one in other.tuning] == [one.prompt for one in sets.tuning]
    assert questions(other.demonstrations) != questions(sets.demonstrations)


@pytest.mark.parametrize("given, found", [
    ({"demonstrations": 0}, "data.demonstrations: found 0; expected a whole number from 1 to"),
    ({"kinds": ["days"], "demonstrations": 15}, "data.demonstrations: found 15; expected a whole number from 1 to 14"),
    ({"kinds": []}, "data.kinds: found .*; expected some of numbers, sum3, days, months"),
    ({"kinds": ["age"]}, "data.kinds: found .*; expected some of numbers, sum3, days, months")])
def test_what_it_refuses(given, found):
    with pytest.raises(ConfigError, match=found):
        SolutionsData(**given)


def test_the_experiment():
    config = composed("experiment=verifiable")
    data, reward = (instantiate(config[name], _convert_="all") for name in ("data", "reward"))
    reward.check(data.load(0))
    assert not reward.needs() and data.load(0).measure is not None and config.report.figure == "accuracy/exact"
