"""What a comparison lets a table say: every branch, and words that agree with the numbers."""

import re
from dataclasses import replace
from math import inf

import numpy as np
import pytest

from algorithms.common.evaluation.inference.claims import Claim, examine
from algorithms.common.evaluation.inference.comparisons import Comparison, Pair, Verdict, all_pairs, compare
from algorithms.common.evaluation.inference.intervals import MEAN, SHARE, Estimate, Matrix
from algorithms.common.evaluation.inference.wording import (
    Costs,
    Runs,
    about,
    finding,
    listed,
    number,
    paragraph,
    reading,
    verdict,
    would_be_seen,
)


def comparison(outcomes, seeds=3, margin=None, **changes):
    """Methods named in `outcomes`: {(winner, loser): verdict} or {(a, b): verdict without a winner}."""
    methods = tuple(dict.fromkeys(name for pair in outcomes for name in pair))
    pairs = []
    for (first, second), said in outcomes.items():
        seen = said.claims or said is Verdict.SEEN_ALONE
        estimate = Estimate(0.5, 0.1 if seen else -0.1, 0.9, 64, "prompts", seeds)
        pairs.append(Pair(first, second, estimate, 0.01, 0.02, estimate, said, first if seen else None,
                          said is Verdict.EQUAL, 0.3456))
    return replace(Comparison(methods, tuple(pairs), seeds, 64, "prompts", 0.05, margin, False, False), **changes)


BETTER, TRAINED, ALONE, EQUAL, UNDECIDED = Verdict


def test_the_better_are_named_once_each():
    found = comparison({("ppo", "sft"): BETTER, ("ppo", "dpo"): BETTER, ("dpo", "sft"): BETTER})
    assert found.best == "ppo"
    assert paragraph(found, "gold reward") == \
        "By gold reward, ppo is better than all others (sft and dpo); dpo is better than sft."
    two = comparison({("ppo", "sft"): BETTER, ("dpo", "sft"): BETTER, ("ppo", "dpo"): UNDECIDED})
    assert paragraph(two, "gold reward") == (
        "By gold reward, ppo and dpo are better than sft. "
        "No difference was seen between ppo and dpo; a difference of about 0.35 would have been seen with a chance of "
        "80 %.")


def test_the_undecided_are_named_and_the_many_counted():
    three = comparison(dict.fromkeys(all_pairs("abc"), UNDECIDED))
    assert paragraph(three, "win rate").startswith(
        "By win rate, no difference was seen between any two of the 3 methods (a, b and c);")
    star = comparison({("a", "b"): BETTER, ("c", "a"): UNDECIDED, ("b", "c"): UNDECIDED})
    assert "No difference was seen between c and each of a and b;" in paragraph(star, "win rate")
    many = comparison({(f"{i}x", f"{i}y"): UNDECIDED for i in range(6)})
    assert "3x and 3y, and between the two of 2 other pairs;" in paragraph(many, "win rate")
    pair = comparison({("a", "b"): UNDECIDED, ("a", "c"): UNDECIDED})
    pair = replace(pair, pairs=(pair.pairs[0], replace(pair.pairs[1], smallest_shown=12.3)))
    assert "differences of about 0.35 to 12 would have been seen" in paragraph(pair, "win rate")


def test_one_seed_speaks_of_trained_models():
    found = comparison({("ppo", "sft"): TRAINED, ("ppo", "dpo"): TRAINED, ("dpo", "sft"): UNDECIDED}, seeds=1)
    text = paragraph(found, "gold reward")
    assert text.startswith("By gold reward, this trained ppo is better than these trained sft and dpo.")
    assert "another seed may order otherwise, and not about the methods." in text and found.best is None
    cell = verdict(found.pairs[0], found)
    assert cell == "this trained ppo is better than this trained sft (no claim about the methods)"
    assert "the methods' other seeds are not covered" in reading(found) and "there is 1 seed" in reading(found)
    nothing = comparison(dict.fromkeys(all_pairs("abc"), UNDECIDED), seeds=1)
    assert "any two of the 3 trained models (a, b and c)" in paragraph(nothing, "gold reward")


def test_seen_alone_claims_nothing():
    found = comparison({("a", "b"): ALONE, ("b", "c"): UNDECIDED, ("a", "c"): UNDECIDED})
    text = paragraph(found, "gold reward")
    assert text.startswith(
        "By gold reward, a difference between a and b is seen only where that pair is looked at alone, which is too "
        "little among 3 comparisons. No difference was seen between c and each of b and a;")
    assert verdict(found.pairs[0], found) == "seen alone, not among the 3 comparisons"


def test_practically_equal_is_said_with_its_margin():
    found = comparison({("a", "b"): EQUAL, ("a", "c"): BETTER}, margin=0.17)
    assert paragraph(found, "gold reward") == \
        "By gold reward, a is better than c; a and b are practically equal (within ±0.17)."
    assert verdict(found.pairs[0], found) == "practically equal (within ±0.17)"
    two = comparison({("a", "b"): EQUAL, ("c", "d"): EQUAL}, margin=0.17)
    assert "practically equal (within ±0.17) are a and b as well as c and d." in paragraph(two, "gold reward")
    small = replace(found.pairs[1], within_margin=True)
    assert verdict(small, found) == "a is better than c, by less than the ±0.17 that count as practically equal"


def test_budget_costs_and_lost_runs():
    found = comparison({("a", "b"): BETTER})
    costs = Costs("seconds", {"a": 1310.4, "b": 61.23, "other": 1})
    runs = {"a": Runs(5, failed=1, diverged=1), "b": Runs(3, failed=3), "c": Runs(2), "d": Runs(1, diverged=1)}
    text = paragraph(found, "perplexity", "the same 2,000 labels", costs, runs)
    assert text == ("By perplexity, a is better than b. All methods were given the same 2,000 labels. "
                    "The cheapest was b with 61.2 seconds, the most expensive a with 1,310. "
                    "Of 5 runs of a, 1 failed and 1 diverged; its figures are those of the other 3. "
                    "Of 3 runs of b, all failed; it has no figures. Of 1 run of d, 1 diverged; it has no figures.")
    money = {"a": 1.31, "b": 0.0612}
    assert "The cheapest was b with 61.2 seconds (0.0612 in money), the most expensive a with 1,310 (1.31 in money). " \
        in paragraph(found, "x", None, replace(costs, money=money), runs)
    alike = Costs("seconds", {"a": 12.6, "b": 13.8}, money)
    assert paragraph(found, "x", costs=alike).endswith("12.6 to 13.8 seconds (1.31 to 0.0612 in money).")
    assert paragraph(found, "x", costs=Costs("tokens", {"a": 5, "b": 5})).endswith("Each cost 5 tokens.")
    alike = Costs("seconds", {"a": 12.6, "b": 13.8})
    assert paragraph(found, "x", costs=alike).endswith("Both cost about the same: 12.6 to 13.8 seconds.")
    apart = Costs("seconds", {"a": 12, "b": 13.9})
    ordered = "The cheapest was a with 12 seconds, the most expensive b with 13.9."
    assert paragraph(found, "x", costs=apart).endswith(ordered)
    assert paragraph(found, "x", costs=Costs("tokens", {"a": 5})).endswith("a cost 5 tokens.")
    assert paragraph(found, "x", costs=Costs("tokens", {})).endswith("than b.")


def test_nothing_to_compare():
    one = replace(comparison({("a", "b"): BETTER}), methods=("a",), pairs=())
    assert paragraph(one, "x", "1 label") == "There is one method, and nothing to compare it with. a was given 1 label."
    assert paragraph(replace(one, methods=("a", "b")), "x") == "Nothing was compared."
    assert "better" not in reading(one)


def test_the_direction_and_two_seeds_are_said():
    found = comparison({("a", "b"): BETTER, ("a", "c"): BETTER}, seeds=2, lower_is_better=True)
    assert paragraph(found, "perplexity").startswith("By perplexity (lower is better), a is better than")
    assert "four times too wide" in reading(found) and "any of the 2 comparisons" in reading(found)
    three_seeds = reading(comparison({("a", "b"): BETTER}))
    assert "Holm" not in three_seeds and "four times" not in three_seeds and "halfway" not in three_seeds
    shrunk = replace(comparison({("a", "b"): BETTER}), shrunk=True)
    assert "taken halfway to that of all pairs" in reading(shrunk)


@pytest.mark.parametrize("value, two, plain", [
    (0.627672, "0.63", "0.628"), (0.0123, "0.012", "0.0123"), (22.17, "22", "22.2"), (1234.5, "1,200", "1,234"),
    (0, "0", "0"), (0.2, "0.2", "0.2"), (99.6, "100", "99.6"), (120, "120", "120"), (999.6, "1,000", "1,000"),
    (-0.05, "-0.05", "-0.05"),
])
def test_numbers_are_written_out(value, two, plain):
    assert (about(value), number(value)) == (two, plain)


def test_what_no_difference_could_have_shown_is_said():
    assert would_be_seen(inf, inf) == "none, however large, would have been seen with a chance of 80 %"
    told = ("in some a difference of about 0.26 or more would have been seen with a chance of 80 %, in others none, "
            "however large")
    assert would_be_seen(0.26, inf) == told
    assert would_be_seen(0.26, 0.264) == "a difference of about 0.26 would have been seen with a chance of 80 %"
    found = comparison({("a", "b"): UNDECIDED})
    found = replace(found, pairs=(replace(found.pairs[0], smallest_shown=inf),))
    assert verdict(found.pairs[0], found) == "no difference seen; this run would have shown none, however large"


def test_shares_differ_by_one_at_most():
    """Two of three seeds swap all answers: what would show such rows apart is more than there can be."""
    flips = Matrix.of([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]), Matrix.of([[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    found = compare(dict(zip("ab", flips)), SHARE)
    assert found.pairs[0].smallest_shown == inf and compare(dict(zip("ab", flips)), MEAN).pairs[0].smallest_shown > 1


def test_lists_are_joined():
    assert [listed(items) for items in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


def test_claims_are_answered_in_a_sentence():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (5, 64)) + rng.normal(0, 0.3, (5, 1))

    def text(shift, margin=0.3, seeds=5):
        found = examine(Claim("a", "b", margin), Matrix.of(values[:seeds] + shift), Matrix.of(0 * values[:seeds]))
        return finding(found, "a exceeds b by more than 0.3")

    assert text(5) == "That a exceeds b by more than 0.3 is reproduced."
    assert text(-5) == "That a exceeds b by more than 0.3 is not reproduced: the opposite was found."
    assert text(5, seeds=1).endswith("is undecided: one seed says nothing about methods.")
    undecided = r"undecided: this run would have shown about [\d.]+ from the margin, and about \d+ seeds would decide"
    assert re.search(undecided, text(0.5))


def test_of_many_pairs_the_wins_are_counted():
    """Eleven methods, a to k: each of a and b beats the other nine, c the eight below it, and so on."""
    names = "abcdefghijk"
    said = {(one, other): BETTER for one, other in all_pairs(names)} | {
        ("a", "b"): UNDECIDED, ("g", "h"): ALONE, ("j", "k"): EQUAL, ("i", "j"): UNDECIDED}
    text = paragraph(comparison(said, margin=0.2), "gold reward")
    assert text == (
        "By gold reward, 51 of 55 comparisons show a difference; in 1 the two are practically equal (within ±0.2); 1 "
        "would show one only if looked at alone, which is too little among so many; in 2 no difference was seen. "
        "Better than so many other methods: a and b (9 each), c (8), d (7), e (6), 4 more (fewer). "
        "Where no difference was seen, a difference of about 0.35 would have been seen with a chance of 80 %.")
    trained = paragraph(comparison(dict.fromkeys(all_pairs(names), TRAINED), seeds=1), "gold reward")
    assert "other trained models: a (10), b (9)" in trained and "one seed: this is about the trained" in trained
    none = paragraph(comparison(dict.fromkeys(all_pairs(names), UNDECIDED)), "gold reward")
    assert "0 of 55 comparisons show" in none and "etter" not in none


@pytest.mark.parametrize("seeds", [1, 3])
def test_words_agree_with_the_numbers(seeds):
    rng = np.random.default_rng(seeds)
    for _ in range(25):
        level = rng.normal(0, 0.4, (5, 1, 1))
        values = level + rng.normal(0, 0.05, (5, seeds, 1)) + rng.normal(0, 1, (5, seeds, 128))
        found = compare(dict(zip("abcde", map(Matrix.of, values), strict=True)), margin=0.2)
        text = paragraph(found, "score")
        for pair in found.pairs:
            cell = verdict(pair, found)
            assert ("is better than" in cell) == pair.verdict.claims
            if "is better than" in cell:
                assert pair.difference.excludes_zero and pair.winner in cell.split(" is better than ")[0]
        assert ("better than" in text) == any(pair.verdict.claims for pair in found.pairs)
        assert ("this trained" in text or "these trained" in text) <= (seeds == 1)
        assert ("all others" in text) == (found.best is not None)
        assert "  " not in text and ".." not in text and text.endswith(".")
