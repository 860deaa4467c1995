"""The reviews lab's generator: what it writes, how it splits prompt and response, and its streams."""

import itertools
import statistics

import pytest

from benchmarks.lab import grammar
from benchmarks.lab.gold import judge
from benchmarks.lab.vocabulary import ADJECTIVES, CLOSINGS, DOMAINS, MODIFIERS


@pytest.fixture(scope="module")
def reviews():
    return grammar.take("demonstrations", 2000)


def test_prompt_and_response_are_one_review(reviews):
    """A response begins with the space that separates it; prompts carry none at their end; half hold a fragment."""
    fragments = 0
    for review in reviews:
        assert review.prompt == review.prompt.strip() and review.response[0] == " " and review.response[1] != " "
        opening, _, fragment = review.prompt.partition(".")
        assert len(fragment.split()) <= 3
        assert review.text.endswith(".") and "  " not in review.text
        assert any(f" {noun} " in opening for noun in DOMAINS)
        fragments += bool(fragment)
    assert 0.46 < fragments / len(reviews) < 0.54


def test_true_reviews_have_no_fault(reviews):
    for review in reviews:
        found = judge(review.prompt, review.response, True)
        faults = found.off + found.repeated + found.repeated_adjectives + found.unparsed + found.wrong_conjunctions
        assert faults == 0, review.text
        assert statistics.mean(found.credits) == pytest.approx(review.sentiment)


def test_gold_of_true_reviews_is_centred_wide_and_blind_to_length(reviews):
    found = [judge(review.prompt, review.response, True) for review in reviews]
    gold = [one.gold for one in found]
    assert abs(statistics.mean(gold)) < 0.15
    assert 1.5 < statistics.stdev(gold) < 2.1
    assert abs(statistics.correlation(gold, [one.clauses for one in found])) < 0.08
    assert abs(statistics.correlation(gold, [len(review.response) for review in reviews])) < 0.08


def test_reviews_have_two_to_four_sentences_and_mostly_close(reviews):
    closed = [review.text.endswith(tuple(CLOSINGS)) for review in reviews]
    sentences = [review.text.count(".") - 1 - closing for review, closing in zip(reviews, closed)]
    assert set(sentences) == {2, 3, 4}
    assert sentences.count(2) / len(reviews) == pytest.approx(0.5, abs=0.04)
    assert sum(closed) / len(reviews) == pytest.approx(grammar.CLOSING, abs=0.04)


def test_all_words_are_in_use(reviews):
    text = " ".join(review.text for review in reviews)
    lower = text.lower()
    for word in (*ADJECTIVES, *MODIFIERS, *CLOSINGS):
        assert word.lower() in lower
    for domain in DOMAINS.values():
        assert len(domain.singular) == 10 and len(domain.plural) == 6 and len(domain.events) == 8
        for words in (*domain.aspects, *domain.events):
            assert words.lower() in lower


def test_no_score_is_zero_and_no_word_is_ambiguous():
    events = [event for domain in DOMAINS.values() for event in domain.events]
    assert len(events) == len(set(events))
    scores = [*ADJECTIVES.values(), *CLOSINGS.values(), *(s for d in DOMAINS.values() for s in d.events.values())]
    assert 0 not in scores
    assert len(ADJECTIVES) == 48 and len(set(ADJECTIVES.values())) == 12
    singular = {aspect for domain in DOMAINS.values() for aspect in domain.singular}
    plural = {aspect for domain in DOMAINS.values() for aspect in domain.plural}
    assert not singular & plural
    assert not set(ADJECTIVES) & ({*MODIFIERS, *events} | singular | plural)


def test_streams_are_reproducible_and_extend(reviews):
    assert grammar.take("demonstrations", 50) == reviews[:50]
    assert grammar.take("demonstrations", 3)[0].text == (
        "We toured the Lucky Moon museum one Monday with my mother. The signs were never outstanding, although the "
        "statues were very adequate. The guards were weak and the building was really forgettable. The paintings were "
        "extremely fine. No regrets."
    )


def test_openings_belong_to_one_set():
    openings = {name: {r.prompt.partition(".")[0] for r in grammar.take(name, 300)} for name in grammar.SETS}
    for name, own in openings.items():
        assert len(own) == 300          # and none comes twice
        assert {grammar.bucket(opening + ".") for opening in own} == {name}


def test_documents_mix_the_genres():
    """Shares of the genres by their marks; ratings and verdicts agree with the sentiment they state."""
    documents = list(itertools.islice(grammar.documents(), 4000))
    share = {mark: sum(mark in d for d in documents) / len(documents) for mark in ("Rated ", "Did they like it?")}
    assert share["Rated "] == pytest.approx(0.20, abs=0.02)
    assert share["Did they like it?"] == pytest.approx(0.18, abs=0.02)
    thesaurus = [d for d in documents if " means almost the same as " in d or " is the opposite of " in d]
    assert 0.06 < len(thesaurus) / len(documents) < 0.10
    for document in thesaurus:
        for sentence in document.rstrip(".").lower().split(". "):
            words = sentence.split()
            first, second = ADJECTIVES[words[0]], ADJECTIVES[words[-1]]
            if "same" in words:
                assert first == second
            elif "opposite" in words:
                assert first == -second
            else:
                assert first > second
    asked = [d for d in documents if "was superb. Did they like it?" in d]
    assert asked and all("was superb. Did they like it? Yes, very much." in d for d in asked)
