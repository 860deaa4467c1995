"""Pairwise votes become scores: published and hand-worked numbers, an independent fit, what files of votes come to."""

import json
import math

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.optimize import minimize

from algorithms.common.data.records import FileData, Record, Records, ranked
from algorithms.common.data.records.mappers import verdicts as verdicts_mapper
from algorithms.common.evaluation.inference.ratings import (
    LOG_ODDS,
    centred,
    elo,
    expected_score,
    log_strengths,
    ratings,
    z_scores,
)
from algorithms.common.evaluation.verdicts import Verdict, append
from algorithms.common.evaluation.votes import BradleyTerry, Elo
from algorithms.common.runs.settings import build
from algorithms.common.support.errors import ConfigError
from algorithms.reward_model import RatingModel
from command_line import composed

CIRCLE = [(0, 1), (1, 2), (0, 2)], [1, 1, 0.5]      # A beats B, B beats C, A and C tie


def approx(values, digits=6):
    return pytest.approx(values, abs=0.6 * 10**-digits)


def test_elo_by_hand():
    assert expected_score(1500, 1600) == approx(0.359935)
    assert elo([(0, 1)], [1], 2, 16, 1500.0) == approx([1508, 1492])
    for won, ends in ((1, (1520.482080, 1579.517920)), (0.5, (1504.482080, 1595.517920))):
        # a vote of K = 100 between equals leaves B 100 above A
        whole = elo([(1, 0)], [1], 2, 100, 1550.0)
        assert whole == approx([1500, 1600])
        move = 32 * (won - expected_score(*whole))
        assert (whole[0] + move, whole[1] - move) == approx(ends)
    found = elo(*CIRCLE, 3)
    assert found == approx([1014.496883, 1000.736307, 984.766810])
    assert z_scores(found) == approx([1.193315, 0.060609, -1.253924])
    natural = centred(found * LOG_ODDS)
    assert natural + 1000 * LOG_ODDS == approx([5.839913, 5.760701, 5.668773])
    assert 1 / (1 + math.exp(natural[1] - natural[0])) == approx(0.519793)


def test_elo_depends_on_order_and_its_mean_over_all_orders_does_not():
    pairs, won = CIRCLE
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    each = [elo([pairs[i] for i in order], [won[i] for i in order], 3) for order in orders]
    assert np.ptp(each, axis=0).max() > 0.5
    assert elo(pairs, won, 3, orders=orders) == approx(np.mean(each, 0))
    backwards = elo(pairs[::-1], won[::-1], 3, orders=orders)
    assert backwards == approx(np.mean(each, 0))


def test_strengths_of_one_vote_by_hand():
    # with a third of .3 comparisons each way: P(A wins) : P(B wins) = 1.1 : .1
    found = log_strengths([(0, 1)], [1], 2, prior=0.3)
    assert found[0] - found[1] == approx(math.log(11))
    assert log_strengths([(1, 0)], [0], 2, prior=0.3) == approx(found)
    assert log_strengths([(0, 1)], [0.5], 2, prior=0.3) == approx([0, 0])


def test_strengths_are_those_of_an_independent_fit():
    rng = np.random.default_rng(3)
    pairs = [tuple(map(int, rng.choice(5, 2, replace=False))) for _ in range(40)]
    won = [float(one) for one in rng.choice([0, 0.5, 1], 40)]
    prior = 0.6

    def loss(weights):
        strengths, ties = np.exp(np.r_[0, weights[:-1]]), math.exp(weights[-1])

        def log_chance(i, j, score):
            tie = ties * math.sqrt(strengths[i] * strengths[j])
            share = {1: strengths[i], 0: strengths[j], 0.5: tie}[score]
            return math.log(share / (strengths[i] + strengths[j] + tie))

        told = sum(log_chance(i, j, score) for (i, j), score in zip(pairs, won))
        added = sum(log_chance(i, j, score) for i in range(5) for j in range(i + 1, 5) for score in (1, 0.5, 0))
        return -told - prior / 3 * added

    expected = minimize(loss, np.zeros(5), tol=1e-12).x[:-1]
    assert log_strengths(pairs, won, 5, prior) == pytest.approx(np.r_[0, expected], abs=1e-4)


@pytest.mark.parametrize("count", [1, 100, 10000])
def test_strengths_of_a_chain_that_nobody_broke_are_finite_and_in_order(count):
    pairs = [(item, item + 1) for item in range(8)] * count
    found = log_strengths(pairs, np.ones(len(pairs)), 9, prior=0.3)
    assert np.isfinite(found).all() and (np.diff(found) < 0).all()


def test_scores_by_hand():
    strengths = np.array([2.0, 0.0, -2.0])
    assert z_scores(strengths) == approx([math.sqrt(1.5), 0, -math.sqrt(1.5)])
    assert z_scores(np.full(3, 7.0)).tolist() == [0, 0, 0]
    assert centred(strengths + 5).tolist() == [2, 0, -2]
    assert ratings(strengths, 5).tolist() == [5, 3, 1]          # .881, .5, .119 in fifths
    assert ratings(strengths, 2).tolist() == [2, 2, 1]
    assert ratings(np.array([40.0, -40.0]), 5).tolist() == [5, 1]


def rows(*votes):
    """{prompt, response_a, response_b, winner} of (prompt, first, second, winner)."""
    return [dict(zip(("prompt", "response_a", "response_b", "winner"), vote)) for vote in votes]


VOTES = rows(("Q", "x", "y", "a"), ("R", "u", "v", "b"), ("Q", "y", "z", "a"), ("Q", "x", "z", "tie"),
             ("Q", "y", "x", "b"))


def read(tmp_path, votes, found, **options):
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return FileData(path=str(path), votes=votes, heldout=0.0, **options)


def test_a_file_of_votes_scores_every_response(tmp_path):
    records, report = read(tmp_path, BradleyTerry(scores="log_odds"), VOTES).records()
    asked, other = records
    assert (asked.prompt, asked.responses, other.prompt, other.responses) == ("Q", ["x", "y", "z"], "R", ["u", "v"])
    expected = centred(log_strengths([(0, 1), (1, 2), (0, 2), (1, 0)], [1, 1, 0.5, 0], 3, 0.3))
    assert asked.scores == pytest.approx(expected.tolist(), abs=1e-8)
    assert other.scores == pytest.approx([-math.log(11) / 2, math.log(11) / 2], abs=1e-8)
    assert asked.meta["lines"] == [1, 3, 4, 5] and (asked.judgements, other.judgements) == (4, 1)
    assert (report.read, report.kept, report.kinds) == (5, 2, {"ranking": 1, "pair": 1})


def test_what_is_learned_of_votes(tmp_path):
    data = read(tmp_path, BradleyTerry(scores="ratings"), VOTES).load(0)
    assert [record.scores for record in data.preferences] == [[4.0, 2.0, 2.0], [2.0, 4.0]]
    RatingModel().check_records(data.preferences, "algorithm")
    assert sum(record.judgements for record in ranked(data.preferences)) == 5       # as many labels as votes
    assert data.demonstrations[0].responses == ["x"]                                # the strongest
    assert data.report.contradictions == 0


def test_elo_in_the_order_of_the_file_alone(tmp_path):
    circle = rows(("Q", "A", "B", "a"), ("Q", "B", "C", "a"), ("Q", "A", "C", "tie"))
    (record,), _ = read(tmp_path, Elo(scores="z", shuffles=0), circle).records()
    assert record.scores == approx([1.193315, 0.060609, -1.253924])
    shuffled = [list(read(tmp_path, Elo(scores="z"), circle).records()[0])[0].scores for _ in range(2)]
    assert shuffled[0] == shuffled[1] != record.scores


def test_verdicts_are_votes_too(tmp_path):
    def verdict(left, right, outcome):
        return Verdict("p", "Q", "0", left, "1", right, outcome, "people", "both", "2026-01-01")

    append(tmp_path / "verdicts.parquet", [verdict("x", "y", "left"), verdict("y", "z", "left"),
                                           verdict("z", "x", "right"), verdict("x", "z", "none")])
    data = FileData(path=str(tmp_path / "verdicts.parquet"), mapper=verdicts_mapper, votes=BradleyTerry())
    (record,), _ = data.records()
    assert record.responses == ["x", "y", "z"] and record.scores[0] > record.scores[1] > record.scores[2]
    assert record.scores[1] == approx(0) and record.judgements == 3


def test_rankings_and_ties_are_votes_and_demonstrations_are_none():
    found = Records.from_list([Record("Q", ["x", "y", "z"], [3.0, 1.0, 1.0]), Record("Q", ["w"]),
                               Record("P", ["a", "b"], [0.5, 0.5]), Record("N", [])])
    scored, shown, tied, bare = BradleyTerry().scored(found)
    assert scored.judgements == 3 and scored.scores == approx([math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)])
    assert (shown.responses, shown.scores, bare.responses) == (["w"], None, [])
    assert tied.scores == [0, 0]


def test_votes_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="data.votes: found single responses with scores; .* fix: data.votes=null"):
        list(BradleyTerry().scored(Records.from_list([Record("Q", ["x"], [1.0])])))
    with pytest.raises(ConfigError, match=r"data.votes: found 'elo'; .* fix: \+votes@data.votes=bradley_terry"):
        FileData(path="a.jsonl", votes="elo")
    with pytest.raises(ConfigError, match="data.votes.prior: found 0"):
        BradleyTerry(prior=0)
    with pytest.raises(ConfigError, match="data.votes.scores: found 'stars'; expected one of z, log_odds, ratings"):
        Elo(scores="stars")


@pytest.mark.parametrize("choice, kind", [("bradley_terry", BradleyTerry), ("elo", Elo)])
def test_the_configs_have_the_classes_defaults(choice, kind):
    config = composed("data=file", "data.path=a.jsonl", f"+votes@data.votes={choice}")
    assert build(config, ("data",))["data"].votes == kind()
    assert set(config.data.votes) - {"_target_"} == set(vars(kind()))
    assert OmegaConf.select(composed("data=arena"), "data.votes", default="none") is None
