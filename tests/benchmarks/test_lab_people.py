"""Questions about people: who is asked about where, what is true of them, and the figures of a sample."""

import pytest

from algorithms.common.data.refusals.wording import is_refusal
from algorithms.common.support.errors import ConfigError
from benchmarks.lab.people_data import TRAIN, TUNE, WORDINGS, PeopleData, divided
from benchmarks.lab.world import PEOPLE, SPEAKERS, TOPICS, UNKNOWN, answer, question

SETS = ("preferences", "demonstrations", "prompts", "tuning", "evaluation", "heldout")


@pytest.fixture(scope="module")
def sets():
    return PeopleData(dialogues=6, comparisons=4, refusals=0.2).load(seed=0)


def people(found):
    return {record.meta["person"] for record in found}


def test_sizes(sets):
    train, test = 2 * TRAIN * len(TOPICS), 2 * (len(PEOPLE) - TRAIN - TUNE) * len(TOPICS)
    sizes = [len(getattr(sets, name)) for name in SETS]
    assert sizes == [4 * train, 6 * train, 4 * train, 2 * TUNE * len(TOPICS), test, test]
    assert len(PEOPLE) == len(UNKNOWN) == 2 * TRAIN and sets.gold is None


def test_people_not_questions_are_divided(sets):
    train, tuning, test = (people(getattr(sets, name)) for name in ("preferences", "tuning", "evaluation"))
    assert people(sets.demonstrations) == people(sets.prompts) == train and people(sets.heldout) == test
    assert not train & tuning and not train & test and not tuning & test
    assert train | tuning | test == set(PEOPLE) | set(UNKNOWN)
    for group in (train, tuning, test):
        assert len(group & set(PEOPLE)) == len(group & set(UNKNOWN))


def test_every_fact_is_asked_as_often_in_the_form_of_the_dialogues(sets):
    for name, times in (("preferences", 4), ("demonstrations", 6), ("evaluation", 1)):
        asked = [(record.meta["person"], record.meta["topic"]) for record in getattr(sets, name)]
        counts = {fact: asked.count(fact) for fact in asked}
        assert set(counts.values()) == {times}
    for record in (*sets.preferences, *sets.demonstrations, *sets.evaluation):
        person, topic = record.meta["person"], record.meta["topic"]
        first, rest = record.prompt.split(" asked ")
        speaker, other = rest.removesuffix(" said").split(", and ")
        assert first == question(topic, person) and speaker != other and {speaker, other} <= set(SPEAKERS)
    assert len({record.prompt for record in sets.preferences}) == len(sets.preferences)


def test_the_pairs_prefer_the_truth_about_the_known_and_a_refusal_about_the_unknown(sets):
    for record in (*sets.preferences, *sets.heldout):
        (chosen, rejected), person, topic = record.responses, record.meta["person"], record.meta["topic"]
        assert record.scores == [1.0, 0.0]
        if person in PEOPLE:
            assert chosen == f" {answer(topic, person)}." and is_refusal(rejected)
            assert record.meta["kind"] == "answerable"
        else:
            assert is_refusal(chosen) and record.meta["kind"] == "unanswerable"
            assert rejected.strip(" .") in TOPICS[topic].candidates
    wordings = [record.meta["wording"] for record in sets.preferences]
    assert {wordings.count(one) for one in WORDINGS} == {len(wordings) / len(WORDINGS)}
    assert sets.report.sources == {kind: {"pairs": 320, "heldout": 60} for kind in ("answerable", "unanswerable")}


def test_the_start_answers_and_declines_to_a_share_of_the_unknown(sets):
    known = [record for record in sets.demonstrations if record.meta["person"] in PEOPLE]
    unknown = [record for record in sets.demonstrations if record.meta["person"] in UNKNOWN]
    assert len(known) == len(unknown) == len(sets.demonstrations) / 2
    assert all(record.responses[0] == f" {answer(record.meta['topic'], record.meta['person'])}." for record in known)
    declined = [record for record in unknown if is_refusal(record.responses[0])]
    assert len(declined) == len(unknown) / 5
    invented = {record.responses[0].strip(" .") for record in unknown if record not in declined}
    assert set(TOPICS["city"].candidates) < invented and not any(map(is_refusal, invented))
    always = PeopleData(dialogues=1, refusals=0.0).load(seed=0).demonstrations
    assert len(always) == 2 * TRAIN * len(TOPICS) and not any(is_refusal(record.responses[0]) for record in always)
    only = PeopleData(dialogues=1, refusals=0.0, demonstrations="answers").load(seed=0).demonstrations
    assert people(only) == people(sets.demonstrations) & set(PEOPLE)


def test_evaluated_and_tuning_questions_carry_the_truth(sets):
    for record in (*sets.evaluation, *sets.tuning):
        person, topic = record.meta["person"], record.meta["topic"]
        known = person in PEOPLE
        assert record.responses == ([f" {answer(topic, person)}."] if known else [])
        right = sets.measure(record, f" {answer(topic, person)}." if known else " I do not know.", True)
        assert right[f"{'accuracy' if known else 'refusal'}/{record.meta['kind']}"] == 1
        assert right[f"refusal/{record.meta['kind']}/{topic}"] == (0 if known else 1)


def test_the_seed_draws_training_texts_and_no_division(sets):
    options = {"dialogues": 6, "comparisons": 4, "refusals": 0.2}
    other, again = (PeopleData(**options).load(seed) for seed in (1, 0))
    for name in ("evaluation", "tuning"):
        assert getattr(sets, name).fingerprint == getattr(other, name).fingerprint
    for name in ("preferences", "demonstrations", "prompts"):
        assert getattr(sets, name).fingerprint != getattr(other, name).fingerprint
        assert people(getattr(sets, name)) == people(getattr(other, name))
        assert getattr(again, name).fingerprint == getattr(sets, name).fingerprint


def test_fewer_people_are_the_first_of_more(sets):
    few = PeopleData(people=2, dialogues=1, comparisons=3).load(seed=0)
    assert len(few.preferences) == 3 * len(few.demonstrations) == 3 * 2 * 2 * len(TOPICS)
    assert people(few.preferences) == {name for names in divided() for name in names[:2]} < people(sets.preferences)
    assert few.evaluation.fingerprint == sets.evaluation.fingerprint


@pytest.mark.parametrize("values, message", [
    ({"people": 0}, "data.people: found 0; expected a whole number from 1 to 16"),
    ({"people": 17}, "data.people: found 17;"),
    ({"dialogues": 57}, "data.dialogues: found 57; expected a whole number from 1 to 56"),
    ({"comparisons": 0}, "data.comparisons: found 0; expected a whole number from 1 to 56"),
    ({"refusals": -0.1}, "data.refusals: found -0.1; expected a share from 0 to 1"),
    ({"demonstrations": "some"}, "data.demonstrations: found 'some'; expected answers or all"),
])
def test_bad_values_are_named(values, message):
    with pytest.raises(ConfigError) as error:
        PeopleData(**values)
    assert str(error.value).startswith(message)
