"""The exact-answer reward: as a source, as a function, and what stops it."""

import pytest
from hydra.utils import instantiate

from algorithms.common.algorithm import Response
from algorithms.common.data.records import Records
from algorithms.common.data.records.record import Record
from algorithms.common.rewards.exact import ExactAnswer, exact_answer
from algorithms.common.support.errors import ConfigError, DataError
from command_line import composed
from stage_setup import make_data


def responses(*texts, meta):
    return [Response("Q", text, [5], [7, 2], True, "r", meta=meta) for text in texts]


def score(source, asked):
    return source.open(None, {}, None, 1)(asked)


def test_one_for_the_right_answer():
    meta = [{"answer": "7"}, {"answer": "7"}, {"answer": "Friday"}]
    assert exact_answer(["#### 7", "#### 8", "So the answer is Friday."], meta) == [1.0, 0.0, 1.0]
    assert score(ExactAnswer("truth"), responses("7.0 apples", "none", meta={"truth": "A: 7"})) == [1.0, 0.0]


def test_the_same_by_its_preset_and_as_a_function():
    asked = responses("it is 7", "it is 8", meta={"ground_truth": 7})
    preset = composed("reward=exact", "reward.reference=ground_truth").reward
    function = composed("reward=function", "+reward.function.reference=ground_truth",
                        "reward.function._target_=algorithms.common.rewards.exact.exact_answer").reward
    for config in (preset, function):
        source = instantiate(config, _convert_="all")
        source.check(make_data() if config is function else data_with({"ground_truth": 7}))
        assert source.reads_meta and score(source, asked) == [1.0, 0.0]


def data_with(*metas, place="prompts"):
    """In the other places where prompts are answered, all have an answer."""
    data = make_data()
    for name in ("prompts", "evaluation", "tuning"):
        setattr(data, name, asked(*metas) if name == place else asked({"answer": 1, "ground_truth": 1}))
    return data


def asked(*metas):
    return Records.from_list([Record(f"Q{n}", [], None, meta) for n, meta in enumerate(metas)])


@pytest.mark.parametrize("place", ["prompts", "evaluation", "tuning"])
def test_every_prompt_needs_an_answer_before_anything_is_trained(place):
    ExactAnswer().check(data_with({"answer": "7"}, {"answer": 0}, place=place))
    with pytest.raises(ConfigError, match="reward.reference: found a prompt without 'answer' in its record's meta "
                                          r"\(which has .*label.*\); expected .* fix: reward.reference=KEY"):
        ExactAnswer().check(data_with({"answer": "7"}, {"answer": "", "label": 1}, place=place))
    with pytest.raises(DataError, match="reward: found a prompt without 'truth' in its record's meta .which has"):
        exact_answer(["7"], [{"answer": "7"}], reference="truth")


def test_instruction_tasks_have_answers_to_check():
    config = composed("data=tasks", "data.examples=64", "data.cot_examples=16", "data.only=[next_number,numbers]",
                      "data.cot_tasks=[numbers]")
    data = instantiate(config.data, _convert_="all").load(0)
    ExactAnswer().check(data)
    scorer = ExactAnswer().open(None, {}, data, 1)
    for record in data.demonstrations:
        asked = Response("", record.responses[0], [], [], True, record.key, meta=record.meta)
        assert scorer([asked]) == [1.0], record
    assert {record.meta["variant"] for record in data.prompts} >= {"cot", "plain", "options"}
