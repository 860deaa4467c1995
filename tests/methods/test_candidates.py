"""Candidates: each source, what is cut and left out, and that they are kept under all that determines them."""

import dataclasses
import shutil
import weakref

import pytest
import torch

from algorithms.common.candidates import Candidates, DiverseBeams, FromRecords, OtherModel, Sampled, making, sources
from algorithms.common.data.records.record import Record
from algorithms.common.models.beam import diverse_beams
from algorithms.common.models.model import ModelConfig, Models
from algorithms.common.models.sampling import Sample, Sampling, sample
from algorithms.common.runs.settings import settings
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.rrhf import RRHF
from command_line import composed
from letters import Letters
from stage_setup import LAB, MODEL
from training_setup import make_context, two_roles

PROMPTS = [" the food was", " a hotel", " the staff of the museum", " the room"]
TALK = [{"role": "user", "content": "how was the food"}]


@pytest.fixture
def models(make_models):
    return two_roles(make_models())


@pytest.fixture
def context(models, tmp_path):
    made = make_context(models, tmp_path, [])
    made.reward = Letters().open(models, {}, None, 8)
    made.identity = {"model": "m", "needs": {"reference": "r"}, "reward": "letters"}
    return made


def make(context, settings: Candidates, records=None):
    records = records if records is not None else [Record(text, []) for text in PROMPTS]
    return settings.make(context, records, [context.models.tokenize(record) for record in records])


def only(source, **options) -> Candidates:
    return Candidates({"only": source}, **{"max_new_tokens": 6, **options})


# Diverse beams against a slow search


def slow_beams(models, prompt, beams, groups, penalty, length):
    """Beam by beam, every prefix read anew."""
    stop, width = set(models.template.stop_ids), beams // groups
    state = [[([], 0.0)] for _ in range(groups)]  # per group: tokens, log-probability
    for _ in range(length):
        taken: dict[int, int] = {}
        for g in range(groups):
            options = []
            for ids, score in state[g]:
                if ids and ids[-1] in stop:
                    options.append((score, ids, score, None))
                    continue
                with torch.no_grad(), models.roles.use("reference"):
                    logps = models.roles.module(input_ids=torch.tensor([prompt + ids])).logits[0, -1].log_softmax(-1)
                options += [(score + lp - penalty * taken.get(v, 0), [*ids, v], score + lp, v)
                            for v, lp in enumerate(logps.tolist())]
            top = sorted(options, key=lambda option: -option[0])[:width]
            state[g] = [(ids, score) for _, ids, score, _ in top]
            for *_, token in top:
                if token is not None:
                    taken[token] = taken.get(token, 0) + 1
    return [ids for group in state for ids, _ in group]


@pytest.mark.parametrize("beams, groups, penalty",
                         [(1, 1, 0.0), (4, 1, 0.0), (4, 4, 1.0), (4, 2, 0.7), (6, 3, 0.2), (2, 2, 0.0)])
def test_diverse_beams_are_those_of_a_slow_search(models, beams, groups, penalty):
    prompts = [[40, 41, 42], [50], [60, 61]]
    stop = models.template.stop_ids[0]
    with torch.no_grad():  # so that beams end, at unequal lengths
        models.roles.module.get_output_embeddings().weight[stop] *= 4
    found = diverse_beams(models, "reference", prompts, beams=beams, groups=groups, penalty=penalty, max_new_tokens=4,
                          batch_size=8)
    for prompt, samples in zip(prompts, found):
        assert [one.ids for one in samples] == slow_beams(models, prompt, beams, groups, penalty, 4)
        assert all(one.finished == (one.ids[-1] == stop) for one in samples)


def test_one_beam_is_greedy_and_a_penalty_makes_groups_differ(models):
    prompts = [[40, 41, 42], [50]]
    greedy = sample(models, "reference", prompts, Sampling(max_new_tokens=5, temperature=0), 0)
    one = diverse_beams(models, "reference", prompts, beams=1, groups=1, penalty=0.0, max_new_tokens=5, batch_size=1)
    assert one == greedy
    same, other = (diverse_beams(models, "reference", prompts, beams=4, groups=4, penalty=penalty, max_new_tokens=5,
                                 batch_size=8)
                   for penalty in (0.0, 100.0))
    for row, first in zip(same, greedy):
        assert row == first * 4
    for row in other:
        assert len({one.ids[0] for one in row}) == 4


# Sources


def test_samples_at_every_temperature(context):
    made = make(context, only(Sampled(count=2, temperatures=[0.7, 1.3])))
    assert [len(example.responses) for example in made.examples] == [4] * 4
    assert made.cost["tokens_sampled"] == sum(map(len, made.frame["ids"])) and made.cost["reward_queries"] == 16
    cold = make(context, only(Sampled(count=2, temperatures=[1e-4])))
    prompts = [context.models.prompt_ids(text, 6) for text in PROMPTS]
    greedy = sample(context.models, "reference", prompts, Sampling(max_new_tokens=6, temperature=0), 0)
    assert [example.responses for example in cold.examples] == [[row[0].ids] for row in greedy], "two alike are one"
    assert cold.cost["tokens_sampled"] == 2 * sum(len(row[0].ids) for row in greedy), "both were paid for"
    assert cold.cost["reward_queries"] == 4
    narrow = make(context, only(Sampled(count=4, top_p=1e-6)))
    assert [example.responses for example in narrow.examples] == [[row[0].ids] for row in greedy]
    assert make(context, only(Sampled(count=2, batch_size=1))).frame.equals(make(context, only(Sampled(count=2))).frame)


def test_the_reference_answers_not_the_policy(context):
    with torch.no_grad():
        for parameter in context.models.policy.parameters().values():
            parameter.fill_(7.0)
    settings = only(Sampled(count=3))
    drawn = make(context, settings).examples[0].responses
    assert drawn == [one.ids for one in sample(context.models, "reference", [context.models.prompt_ids(PROMPTS[0], 6)],
                                               Sampling(max_new_tokens=6),
                                               sources.derive(sources.derive(context.seed, "candidates", "only"), 0),
                                               n=3, keys=[Record(PROMPTS[0], []).key])[0]]


def test_beams_as_a_source(context):
    made = make(context, only(DiverseBeams(beams=2, groups=2, penalty=3.0, batch_size=4)))
    prompts = [context.models.prompt_ids(text, 6) for text in PROMPTS]
    found = diverse_beams(context.models, "reference", prompts, beams=2, groups=2, penalty=3.0, max_new_tokens=6,
                          batch_size=64)
    assert [example.responses for example in made.examples] == [[one.ids for one in row] for row in found]


def test_the_records_responses_with_any_scores(context):
    records = [Record(text, [" good", " bad", " good"], [0.0, 1.0, 3.0]) for text in PROMPTS]
    made = make(context, Candidates({"data": FromRecords(), "own": Sampled(count=1)}, max_new_tokens=6), records)
    own = context.models.tokenize(records[0])
    assert made.examples[0].responses[:2] == own.responses[:2] and len(made.examples[0].responses) == 3
    lengths = [float(len(text)) for text in made.frame["response"][:3]]
    assert made.examples[0].scores == lengths, "scored anew by the source"
    assert set(made.frame["source"]) == {"data", "own"}
    theirs = make(context, only(FromRecords(), scores="records"), records)
    assert theirs.examples[0].scores == [0.0, 1.0] and theirs.cost["reward_queries"] == 0, "of equal texts the first"


def test_another_model_by_its_folder(context):
    """Its text in this model's tokens; both have the lab's tokenizer, so the ids come back the same."""
    other = OtherModel(dataclasses.replace(MODEL, lora=None), count=2, temperature=0.8, top_p=0.95)
    made = make(context, only(other, max_new_tokens=12))
    models = sources.Models(other.model, "no")
    ids = [models.prompt_ids(text, 12) for text in PROMPTS]
    drawn = sample(models, "base", ids, Sampling(max_new_tokens=12, temperature=0.8, top_p=0.95),
                   sources.derive(context.seed, "candidates", "only"), n=2,
                   keys=[Record(text, []).key for text in PROMPTS])
    texts = [[models.template.decode(one.ids) for one in row] for row in drawn]
    responses = [rows["response"].tolist() for _, rows in made.frame.groupby("prompt")]
    assert responses == [list(dict.fromkeys(row)) for row in texts]
    for example, row in zip(made.examples, drawn):
        for response, over in zip(example.responses, example.finished):
            assert over == (response[-1] in context.models.template.stop_ids)
    assert made.cost["tokens_sampled"] == sum(len(one.ids) for row in drawn for one in row)


def test_another_model_is_gone_once_it_has_answered(context, monkeypatch):
    loaded = []

    def load(*given):
        models = Models(*given)
        loaded.append(weakref.ref(models))
        return models

    monkeypatch.setattr(sources, "Models", load)
    make(context, only(OtherModel(dataclasses.replace(MODEL, lora=None))))
    assert [model() for model in loaded] == [None]


def test_another_model_is_what_its_files_hold(context, tmp_path):
    """The same name over other weights: other candidates, and another trained stage."""
    shutil.copytree(LAB, tmp_path / "copy")
    settings = only(OtherModel(dataclasses.replace(MODEL, name=str(tmp_path / "copy"))))
    records, path = [Record(PROMPTS[0], [])], tmp_path / "copy" / "model.safetensors"
    before = described(context, settings, records), RRHF(candidates=settings).content()
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)
    after = described(context, settings, records), RRHF(candidates=settings).content()
    assert before[0] != after[0] and before[1] != after[1]
    assert only(Sampled()).content() == {}


def test_a_response_ends_where_it_invents_a_turn(models):
    template = models.template
    text = " it was good\n\nHuman: and the room?\n\nAssistant: bad"
    ids = template.tokenizer(text, add_special_tokens=False).input_ids
    talk, plain = (sources.Prompt(Record(prompt, []), None, []) for prompt in (TALK, "how was the food"))
    (cut,) = sources._own(models, talk, [Sample(ids, False)])
    if template.decode(ids) == text:  # the tokenizer knows these characters
        assert template.decode(cut.ids) == " it was good" and cut.finished and cut.ids[-1] == template.turn_end
        assert cut.sampled == len(ids), "the cut tokens were paid for"
    (whole,) = sources._own(models, plain, [Sample(ids, False)])
    assert whole == sources.Candidate(ids, False, len(ids)), "a plain text may hold such a line"
    assert sources._before_turn(models, talk.record, text) == " it was good"
    assert sources._before_turn(models, talk.record, " it was good") is None
    models.template.chat = True
    assert sources._before_turn(models, talk.record, text) is None, "turns are tokens there"


def test_over_long_prompts_are_cut_once_for_drawing_scoring_and_training(context):
    """64 tokens hold a prompt of 60 and no answer: it is cut to 32 of its end, as in training."""
    models, seen = context.models, []
    context.reward = lambda responses: seen.extend(responses) or [float(i) for i, _ in enumerate(responses)]
    text = " food" * 60
    made = make(context, only(Sampled(count=2)), [Record(text, [])])
    (example,) = made.examples
    assert example.truncated and len(example.prompt) == 32 and example.prompt == models.prompt_ids(text, 6)
    assert all(one.prompt_ids == example.prompt for one in seen)
    # here the record's own response asks for a shorter prompt than the samples
    long = Record(" food" * 55, [" good" * 8])
    (both,) = make(context, Candidates({"own": Sampled(count=1), "data": FromRecords()}, max_new_tokens=6),
                   [long]).examples
    assert both.prompt == models.tokenize(long).prompt and len(both.prompt) < len(models.prompt_ids(long.prompt, 6))


def test_what_was_cut_off_has_no_end_token(models):
    record = Record("x", [])
    long = sources._retokenised(models, record, " the food was good", True, 2, 9)
    assert len(long.ids) == 2 and not long.finished and long.sampled == 9
    exact = sources._retokenised(models, record, " the food", False, 9, 2)
    assert models.template.turn_end not in exact.ids and not exact.finished


def test_the_scorer_gets_text_tokens_and_record(context):
    seen = []
    context.reward = lambda responses: seen.extend(responses) or [0.0] * len(responses)
    record = Record(TALK, [" good"], [1.0])
    make(context, only(FromRecords()), [record])
    (one,) = seen
    template = context.models.template
    assert one.prompt == template.prompt_text(TALK) and one.text == " good" and one.finished
    assert one.record == record.key
    assert template.decode(one.ids) == template.response_text(TALK, " good")


# Kept


def described(context, settings, records):
    prompts = [settings._prompt(context.models, record, context.models.tokenize(record)) for record in records]
    return settings._description(context, prompts, "reference", 1)


SETTINGS = only(Sampled(count=2))
CHANGES = {
    "count": {"settings": only(Sampled(count=3))},
    "temperature": {"settings": only(Sampled(count=2, temperatures=[0.9]))},
    "kind": {"settings": only(DiverseBeams())},
    "a further source": {"settings": Candidates({"only": Sampled(count=2), "data": FromRecords()}, max_new_tokens=6)},
    "max_new_tokens": {"settings": only(Sampled(count=2), max_new_tokens=7)},
    "scores": {"settings": only(FromRecords(), scores="records"), "base": only(FromRecords())},
    "reference": {"identity": {"model": "m", "needs": {"reference": "other"}, "reward": "letters"}},
    "model": {"identity": {"model": "other", "needs": {"reference": "r"}, "reward": "letters"}},
    "reward": {"identity": {"model": "m", "needs": {"reference": "r"}, "reward": "other"}},
    "seed": {"seed": 4},
    "prompts": {"records": [Record("another", [])]},
    "responses": {"records": [Record(PROMPTS[0], [" good"])]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_key_changes_with(context, what):
    def key(settings, records):
        return described(context, settings, records)

    change, records = CHANGES[what], [Record(PROMPTS[0], [])]
    before = key(change.get("base", SETTINGS), records)
    assert key(change.get("base", SETTINGS), records) == before
    context.identity = change.get("identity", context.identity)
    context.seed = change.get("seed", context.seed)
    assert key(change.get("settings", SETTINGS), change.get("records", records)) != before


def test_the_records_scores_do_not_depend_on_the_reward(context):
    records, settings = [Record("x", [" a", " b"], [0.0, 1.0])], only(FromRecords(), scores="records")
    before = described(context, settings, records)
    context.identity = {**context.identity, "reward": "other"}
    assert described(context, settings, records) == before


def test_found_again_they_cost_what_they_cost(context, monkeypatch):
    first = make(context, SETTINGS)
    context.reward = lambda responses: pytest.fail("they are scored")
    monkeypatch.setattr(sources, "sample", lambda *_, **__: pytest.fail("they are drawn"))
    second = make(context, SETTINGS)
    assert second.cost == first.cost and second.examples == first.examples
    assert first.cost["seconds"] > 0 and first.cost["peak_memory_bytes"] > 0


def test_another_store_gives_the_same(context, make_models, tmp_path):
    first = make(context, SETTINGS)
    again = make_context(two_roles(make_models()), tmp_path / "other", [])
    again.reward, again.identity = context.reward, context.identity
    assert make(again, SETTINGS).frame.equals(first.frame)


class Killed(Exception):
    pass


def test_a_kill_loses_one_part(context, make_models, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "PART", 1)
    whole = make(context, SETTINGS)
    other = make_context(context.models, tmp_path / "other", [])
    asked = []

    def score(responses):
        asked.append(responses[0].record)
        if len(asked) == 3:
            raise Killed
        return context.reward(responses)

    other.reward, other.identity = score, context.identity
    with pytest.raises(Killed):
        make(other, SETTINGS)
    resumed = make(other, SETTINGS)
    keys = [Record(text, []).key for text in PROMPTS]
    assert asked == [*keys[:3], *keys[2:]], "two parts were kept"
    assert resumed.frame.equals(whole.frame) and resumed.cost["tokens_sampled"] == whole.cost["tokens_sampled"]


def test_parts_do_not_change_what_is_drawn(context, tmp_path, monkeypatch):
    whole = make(context, SETTINGS)
    monkeypatch.setattr(making, "PART", 3)
    other = make_context(context.models, tmp_path / "other", [])
    other.reward, other.identity = context.reward, context.identity
    parts = make(other, SETTINGS)
    assert parts.frame.equals(whole.frame) and parts.cost["reward_queries"] == whole.cost["reward_queries"]


# Refused


@pytest.mark.parametrize("build, message", [
    (lambda: Sampled(count=0), "source.count: found 0; expected at least 1"),
    (lambda: Sampled(temperatures=[]), "source.temperatures"),
    (lambda: Sampled(temperatures=[1.0, 0.0]), "source.temperatures"),
    (lambda: DiverseBeams(beams=4, groups=3), "source.groups: found 3 for 4 beams"),
    (lambda: DiverseBeams(penalty=-1.0), "source.penalty: found -1"),
    (lambda: OtherModel(MODEL, count=0), "source.count: found 0"),
    (lambda: Candidates({}), "candidates.sources: found none"),
    (lambda: Candidates({"own": None}), "candidates.sources: found none"),
    (lambda: Candidates(scores="luck"), "candidates.scores: found 'luck'"),
    (lambda: Candidates(max_new_tokens=0), "candidates.max_new_tokens"),
    (lambda: Candidates(scores="records"), "found records with the sources own")])
def test_values_that_cannot_be_used(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_records_without_responses_or_scores(context):
    with pytest.raises(TrainingError, match="found none for record .*; fix: algorithm.view=ranked"):
        make(context, only(FromRecords()))
    with pytest.raises(TrainingError, match="found no scores in record"):
        make(context, only(FromRecords(), scores="records"), [Record("x", [" a", " b"])])


@pytest.mark.parametrize("part", [1, 512])
def test_a_source_that_gives_nothing_is_named(context, monkeypatch, part):
    monkeypatch.setattr(making, "PART", part)
    mixed = Candidates({"own": Sampled(count=1), "data": FromRecords()}, max_new_tokens=6)
    with pytest.raises(TrainingError,
                       match="candidates.sources.data: found no response to any of 4 prompts; expected some; "
                                            "fix: .*algorithm.candidates.sources.data=null"):
        make(context, mixed)
    one = [Record(text, [" good"] if text == PROMPTS[2] else []) for text in PROMPTS]
    assert make(context, mixed, one).frame["source"].tolist().count("data") == 1, "some prompts may have none"
    twice = make(context, Candidates({"data": FromRecords(), "again": FromRecords()}, max_new_tokens=6),
                 [Record(PROMPTS[0], [" good"])])
    assert twice.frame["source"].tolist() == ["data"], "the same response as another's is not nothing"
    assert "drawn" not in twice.cost


SOURCES = "+algorithm.candidates.sources"
TARGET = "_target_: algorithms.common.candidates"


@pytest.mark.parametrize("overrides, expected", [
    ([], Candidates()),
    (["algorithm.candidates.sources.own.count=6", "algorithm.candidates.sources.own.temperatures=[0.7,1.0]"],
     Candidates({"own": Sampled(count=6, temperatures=[0.7, 1.0])})),
    ([f"{SOURCES}.beams={{{TARGET}.DiverseBeams, beams: 4, groups: 2, penalty: 0.5}}",
      "algorithm.candidates.sources.own=null"],
     Candidates({"own": None, "beams": DiverseBeams(4, 2, 0.5)})),
    ([f"{SOURCES}.data={{{TARGET}.FromRecords}}", "algorithm.view=ranked"],
     Candidates({"own": Sampled(), "data": FromRecords()})),
    ([f"{SOURCES}.other={{{TARGET}.OtherModel, count: 2, "
      "model: {_target_: algorithms.common.models.model.ModelConfig, name: a/b}}"],
     Candidates({"own": Sampled(), "other": OtherModel(ModelConfig("a/b"), count=2)})),
    (["eval.sampling.max_new_tokens=9"], Candidates(max_new_tokens=9)),
], ids=["default", "own", "beams", "data", "other", "length"])
def test_sources_are_chosen_on_the_command_line(overrides, expected):
    assert settings(composed("algorithm=rrhf", *overrides)).algorithm.candidates == expected


def test_a_wrong_source_is_refused_with_its_place():
    with pytest.raises(ConfigError,
                       match="algorithm.candidates.sources.own.number: found no such key; expected one of batch_size, "
                             "count"):
        settings(composed("algorithm=rrhf", "+algorithm.candidates.sources.own.number=3"))
    with pytest.raises(ConfigError, match=r"algorithm.candidates.*count: found 0; expected at least 1"):
        settings(composed("algorithm=rrhf", "algorithm.candidates.sources.own.count=0"))
