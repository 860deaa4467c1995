"""The reviews lab as a data source: its named sets, its annotators, and what it refuses."""

import math

import pytest

from algorithms.common.data import records
from algorithms.common.support.errors import ConfigError
from benchmarks.lab.gold import closes, gold
from benchmarks.lab.reviews_data import ReviewsData
from benchmarks.lab.samples import HELDOUT_PROMPTS, SAMPLES, TRAIN_PROMPTS, read_samples, write_samples


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    before = records.cache_folder()
    records.set_cache_folder(tmp_path_factory.mktemp("cache"))
    yield
    records.set_cache_folder(before)


@pytest.fixture(scope="module")
def sets():
    return ReviewsData().load(seed=0)


@pytest.fixture(scope="module")
def finished():
    """(prompt, response) → whether the committed sample ended by itself."""
    return {(row.prompt, r): f for row in read_samples() for r, f in zip(row.responses, row.finished)}


def _gold(record, finished) -> list[float]:
    return [gold(record.prompt, response, finished[record.prompt, response]) for response in record.responses]


def _share_preferred(comparisons, feature) -> float:
    """Among comparisons whose sides differ in `feature`, the share in which the larger side is preferred."""
    wins = []
    for record in comparisons:
        a, b = map(feature, record.responses)
        if a != b:
            wins.append((record.scores[0] > record.scores[1]) == (a > b))
    return sum(wins) / len(wins)


def _words(response: str) -> int:
    return len(response.split())


def test_sizes_and_kinds(sets):
    assert [len(s) for s in (sets.preferences, sets.demonstrations, sets.prompts, sets.tuning, sets.evaluation)] == [
        2048, 3072, 1536, 256, 256,
    ]
    assert len(sets.heldout) == 2 * HELDOUT_PROMPTS
    assert sets.report.read == 2048 + 3072 + 1536 + 256 + 256 + 512
    for record in (*sets.preferences, *sets.heldout):
        assert sorted(record.scores) == [0.0, 1.0] and len(set(record.responses)) == 2
    for record in (*sets.demonstrations, *sets.evaluation):
        assert len(record.responses) == 1 and record.scores is None
    assert all(record.responses == [] for record in sets.prompts)


def test_sets_are_disjoint_by_prompt(sets):
    named = (sets.preferences, sets.demonstrations, sets.prompts, sets.evaluation, sets.heldout, sets.tuning)
    prompts = [{record.prompt for record in records} for records in named]
    assert len(set.union(*prompts)) == sum(map(len, prompts))
    assert [len(p) for p in prompts] == [1024, 3072, 1536, 256, 256, 256]


def test_gold_scores_the_lab_s_own_text(sets):
    demonstrations = list(sets.demonstrations)[:3]
    rewards = sets.gold([r.prompt for r in demonstrations], [r.responses[0] for r in demonstrations], [True] * 3)
    assert rewards == [gold(r.prompt, r.responses[0], True) for r in demonstrations]


def test_annotators_agree_with_gold_as_bradley_terry_says(sets, finished):
    """About four in five labels at tau 1; the share expected from the sigmoid, within three standard errors."""
    agree, expected = [], []
    for record in sets.preferences:
        a, b = _gold(record, finished)
        agree.append((record.scores[0] > record.scores[1]) == (a > b))
        expected.append(1 / (1 + math.exp(-abs(a - b))))
    share = sum(agree) / len(agree)
    assert 0.75 < share < 0.84
    spread = math.sqrt(sum(p * (1 - p) for p in expected)) / len(expected)
    assert abs(share - sum(expected) / len(expected)) < 3 * spread


def test_small_temperature_gives_true_labels(finished):
    comparisons = ReviewsData(temperature=1e-9).load(seed=0).preferences
    for record in comparisons:
        a, b = _gold(record, finished)
        assert a == b or (record.scores[0] > record.scores[1]) == (a > b)


def test_the_seed_draws_labels_only(sets):
    other = ReviewsData().load(seed=1)
    changed = 0
    for name in ("preferences", "heldout"):
        for one, two in zip(getattr(sets, name), getattr(other, name), strict=True):
            assert (one.prompt, one.responses) == (two.prompt, two.responses)
            changed += one.scores != two.scores
    assert 0.15 < changed / (2048 + 512) < 0.45
    for name in ("demonstrations", "prompts", "evaluation", "tuning"):
        assert getattr(sets, name).fingerprint == getattr(other, name).fingerprint
    again = ReviewsData().load(seed=0)
    assert again.preferences.fingerprint == sets.preferences.fingerprint != other.preferences.fingerprint


def test_a_smaller_set_is_the_beginning_of_a_larger(sets):
    small = ReviewsData(preferences=100, demonstrations=10, prompts=10, tuning=0, evaluation=10).load(seed=0)
    assert list(small.preferences) == list(sets.preferences)[:100]
    assert list(small.demonstrations) == list(sets.demonstrations)[:10]
    assert list(small.evaluation) == list(sets.evaluation)[:10]
    assert len(small.tuning) == 0


def test_biased_annotators(sets):
    """Each bias raises the share of what it likes, and a dislike lowers it."""
    plain = _share_preferred(sets.preferences, _words)
    liked = _share_preferred(ReviewsData(length_bias=2.0).load(seed=0).preferences, _words)
    disliked = _share_preferred(ReviewsData(length_bias=-2.0).load(seed=0).preferences, _words)
    assert liked > plain + 0.1 and disliked < plain - 0.1
    plain = _share_preferred(sets.preferences, closes)
    assert _share_preferred(ReviewsData(closing_bias=2.0).load(seed=0).preferences, closes) > plain + 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preferences": 3074}, "data.preferences: found 3074; expected a whole number from 2 to 3072; fix: "),
        ({"preferences": 7}, "data.preferences: found 7; expected an even number"),
        ({"preferences": 0}, "data.preferences: found 0;"),
        ({"preferences": "many"}, "data.preferences: found 'many';"),
        ({"demonstrations": 0}, "data.demonstrations: found 0;"),
        ({"evaluation": 10.5}, "data.evaluation: found 10.5;"),
        ({"tuning": -1}, "data.tuning: found -1;"),
        ({"prompts": 10**9}, "data.prompts: found 1000000000;"),
        ({"temperature": 0}, "data.temperature: found 0; expected a positive number"),
        ({"temperature": math.nan}, "data.temperature: found nan; expected a finite number"),
        ({"length_bias": math.inf}, "data.length_bias: found inf;"),
        ({"closing_bias": "much"}, "data.closing_bias: found 'much';"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ConfigError) as error:
        ReviewsData(**values).load(seed=0)
    assert str(error.value).startswith(message) and "; fix: " in str(error.value)


def test_samples_are_spread_and_mostly_finished():
    """What the comparisons live on: distinct responses per prompt, wide in gold, nearly all ended by themselves."""
    rows = read_samples()
    assert len(rows) == TRAIN_PROMPTS + HELDOUT_PROMPTS
    assert all(len(set(row.responses)) == SAMPLES == len(row.finished) for row in rows)
    rewards = [gold(row.prompt, *pair) for row in rows for pair in zip(row.responses, row.finished)]
    mean = sum(rewards) / len(rewards)
    assert -1.0 < mean < -0.1
    assert 1.2 < math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards)) < 2.0
    assert sum(sum(row.finished) for row in rows) / (SAMPLES * len(rows)) > 0.95


def test_writing_samples_is_exact_and_deterministic(tmp_path):
    rows = read_samples()[:5]
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_samples(tmp_path / name, rows)
        assert read_samples(tmp_path / name) == rows
        files.append((tmp_path / name / "samples.jsonl.gz").read_bytes())
    assert files[0] == files[1]
