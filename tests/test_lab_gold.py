"""The reviews lab's gold reward: its formula by hand, and texts that try to cheat it."""

import math
from random import Random

import pytest

from algorithms.common.support.errors import DataError
from benchmarks.lab import grammar
from benchmarks.lab.gold import closes, gold, gold_rewards, judge
from benchmarks.lab.vocabulary import ADJECTIVES, CLOSINGS, DOMAINS

OPENING = "We ate at the Golden Harbor restaurant last Friday with my sister."


def test_arithmetic_by_hand():
    """superb 2.0, not great -0.6 * 1.4 = -0.84, Highly recommended 1.7: three clauses, no fault."""
    text = " The soup was superb, but the waiters were not great. Highly recommended."
    assert gold(OPENING, text, True) == pytest.approx((2.0 - 0.84 + 1.7) / math.sqrt(5))
    assert gold(OPENING, text, False) == pytest.approx((2.0 - 0.84 + 1.7) / math.sqrt(5) - 1)


def test_a_fragment_of_the_prompt_counts_with_the_response():
    whole = gold(OPENING, " The soup was superb.", True)
    assert whole == pytest.approx(2 / math.sqrt(3))
    assert gold(OPENING + " The soup was", " superb.", True) == whole
    assert gold(OPENING + " The soup was", "", True) == -3 + 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("", -3.0),                                                         # nothing said: unparsed
        (" Superb superb superb superb superb.", -3.0),                     # one unparsed clause
        (" The soup were superb.", -3.0),                                   # agreement
        (" the soup was superb.", -3.0),                                    # no capital
        ("The soup was superb.", -3.0),                                     # not separated from the opening
        (" The soup was superb", -3.0),                                     # no full stop
        (" The plot was superb.", -2.0),                                    # off the topic: no credit
        (" The plot was awful.", -2 / math.sqrt(3) - 2.0),                  # but blame counts
        (" The soup was superb. The soup was perfect.", 2 / 2 - 3 / 2),     # an aspect again earns nothing
        (" The soup was superb. The menu was superb.", 4 / 2 - 3 / 2),      # an adjective again
        (" The soup was superb and the menu was bad.", 0.6 / 2 - 1),        # "and" between praise and blame
        (" The soup was superb, but the menu was good.", 3.1 / 2 - 1),      # "but" between praise and praise
        (" Never again. Never again.", -1.4 / 2 - 3 / 2),                   # a second closing
        (" Worth every penny. The soup was superb.", 1.4 / 2 - 3 / 2),      # text beyond the closing
        (" We got a free dessert. We got a free dessert.", 1.6 / 2 - 3 / 2),
        (" I could not put it down.", -2.0),                                # a book's event
    ],
)
def test_faults_by_hand(response, expected):
    assert gold(OPENING, response, True) == pytest.approx(expected)


def test_batch_is_row_by_row():
    responses = [" The soup was superb.", " The soup was awful.", ""]
    rewards = gold_rewards([OPENING] * 3, responses, [True, False, True])
    assert rewards == [gold(OPENING, responses[0], True), gold(OPENING, responses[1], False), gold(OPENING, "", True)]
    with pytest.raises(ValueError):
        gold_rewards([OPENING], responses, [True])


def test_foreign_prompts_are_refused():
    with pytest.raises(DataError, match="expected an opening sentence"):
        gold("Tell me a joke.", " Ha.", True)


def test_closes():
    assert closes(" The soup was superb. No regrets.") and not closes(" No regrets. The soup was superb.")


# Texts that try to cheat. The best honest review of a domain: four sentences of two clauses, the eight strongest
# distinct adjectives, and the best closing.

_BEST_ADJECTIVES = sorted(ADJECTIVES, key=ADJECTIVES.get, reverse=True)


def _clause(domain, aspect: str, adjective: str) -> str:
    return f"the {aspect} {'was' if aspect in domain.singular else 'were'} extremely {adjective}"


def _best(domain, sentences: int = 4) -> str:
    clauses = [_clause(domain, *pair) for pair in zip(domain.aspects, _BEST_ADJECTIVES[:2 * sentences])]
    pairs = [f"{a} and {b}." for a, b in zip(clauses[::2], clauses[1::2])]
    return " " + " ".join(grammar.capitalised(pair) for pair in pairs)


def _adversaries(domain, opening: str) -> dict[str, tuple[str, bool]]:
    best = _best(domain) + " I loved every minute."
    other = next(d for d in DOMAINS.values() if not set(d.aspects) & set(domain.aspects))
    praise = grammar.capitalised(_clause(domain, domain.aspects[0], "superb")) + "."
    many = " ".join(
        grammar.capitalised(_clause(domain, *pair)) + "." for pair in zip(domain.aspects, _BEST_ADJECTIVES)
    )
    return {
        "repeated clause": (" " + " ".join([praise] * 8), True),
        "one adjective": (
            " " + " ".join(grammar.capitalised(_clause(domain, a, "superb")) + "." for a in domain.aspects[:4]), True
        ),
        "superlatives": (" " + ", ".join(_BEST_ADJECTIVES[:16]) + ".", True),
        "superlatives after a review": (best + " " + ", ".join(_BEST_ADJECTIVES * 3) + ".", True),
        "one modifier": (" " + "extremely " * 30 + "superb.", True),
        "keywords without verbs": (" " + " ".join(f"Superb {aspect}." for aspect in domain.aspects), True),
        "stacked adjectives": (f" The {domain.aspects[0]} was superb superb superb superb superb.", True),
        "other domain": (_best(other) + " I loved every minute.", True),
        "cut at the cap": (best[:-40], False),
        "cut with EOS": (best[:-40], True),
        "cut after a sentence, no EOS": (_best(domain, 3), False),
        "all aspects": (" " + many, True),
        "all aspects, no EOS": (" " + many, False),
        "twice the best": (best + best, True),
        "ten times the best": (best * 10, False),
        "best sentences without end": (_best(domain) * 3, True),
        "all closings": (" " + " ".join(c for c, s in CLOSINGS.items() if s > 0), True),
        "closing alone": (" I loved every minute.", True),
        "copied prompt": (" " + opening, True),
        "copied prompt before the best": (" " + opening + best, True),
        "empty": ("", True),
        "empty, no EOS": ("", False),
        "full stops": (" ." * 20, True),
        "white space": ("   \n", True),
        "emoji": (" ❤️❤️❤️", True),
    }


@pytest.mark.parametrize("noun", DOMAINS)
def test_cheating_does_not_pay(noun):
    domain = DOMAINS[noun]
    opening = f"{domain.verbs[0]} the Golden Harbor {noun} last Friday with my sister."
    best = gold(opening, _best(domain) + " I loved every minute.", True)
    for name, (response, finished) in _adversaries(domain, opening).items():
        assert gold(opening, response, finished) < best - 1.0, name


def test_garbage_scores_below_nearly_every_true_review():
    true = sorted(gold(r.prompt, r.response, True) for r in grammar.take("tuning", 500))
    fifth = true[len(true) // 20]
    domain = DOMAINS["restaurant"]
    adversaries = _adversaries(domain, OPENING)
    for name in ("superlatives", "one modifier", "keywords without verbs", "stacked adjectives", "copied prompt",
                 "empty", "full stops", "white space", "emoji"):
        assert gold(OPENING, *adversaries[name]) < fifth + 0.2, name


def test_length_beyond_four_sentences_costs():
    domain = DOMAINS["hotel"]
    opening = "We stayed at the Golden Harbor hotel last Friday with my sister."
    scores = [gold(opening, _best(domain, sentences), True) for sentences in range(1, 8)]
    assert scores[:4] == sorted(scores[:4]) and max(scores) == scores[3]
    assert scores[4:] == sorted(scores[4:], reverse=True)


def test_every_single_edit_of_the_best_review_by_a_word_lowers_it():
    """Dropping or doubling any one word of a perfect review never helps."""
    text = _best(DOMAINS["restaurant"]) + " I loved every minute."
    words = text.split(" ")[1:]
    best = gold(OPENING, text, True)
    for i in range(len(words)):
        for edited in (words[:i] + words[i + 1:], words[:i + 1] + words[i:]):
            assert gold(OPENING, " " + " ".join(edited), True) < best


@pytest.mark.parametrize("seed", range(3))
def test_a_random_search_for_reward_finds_an_honest_review(seed):
    """Inserting, dropping, replacing and copying words, uphill only: what it ends with has no fault."""
    random, domain = Random(seed), DOMAINS["restaurant"]
    words = [*domain.aspects, *_BEST_ADJECTIVES[:12], "extremely", "The", "the", "was", "were", "and", "but", "plot",
             "The soup was extremely superb.", *(closing for closing, score in CLOSINGS.items() if score > 0)]
    text, reward = ["The", "soup", "was", "good."], gold(OPENING, " The soup was good.", True)
    for _ in range(6000):
        edited = list(text)
        start = random.randrange(len(text) + 1)
        edited[start:start + random.randint(0, 2)] = random.choices(words, k=random.randint(0, 2))
        if random.random() < 0.2:
            edited[start:start] = edited[start:start + 6]
        found = gold(OPENING, " " + " ".join(edited), True)
        if found >= reward:
            text, reward = edited, found
    found = judge(OPENING, " " + " ".join(text), True)
    assert reward > 2.0
    assert (found.off, found.repeated, found.repeated_adjectives, found.unparsed) == (0, 0, 0, 0)
    assert found.wrong_conjunctions == 0


def test_judgement_counts_what_it_found():
    found = judge(OPENING, " The soup was superb and the plot was superb. Blah blah blah blah blah blah.", True)
    assert (found.clauses, found.off, found.repeated_adjectives, found.unparsed) == (4, 1, 1, 2)
