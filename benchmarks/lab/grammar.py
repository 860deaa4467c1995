"""The generator of the reviews lab: short reviews drawn from a grammar, and the genres a base model is pretrained on.

A review is an opening sentence ("We ate at the Golden Harbor restaurant last Friday with my sister."), two to four
sentences of one or two clauses each, and often a closing phrase. A latent quality q ~ N(0, 1.1) is drawn per review and
a target ~ N(q, 0.55) per clause; words are chosen whose score lies near the target. A *prompt* is the opening, half of
the time followed by the first one to three words of the first clause; the *response* is the rest, and begins with the
space that separates it from the prompt: ``prompt + response`` is the review.

Openings are dealt to the named sets (`SETS`) by their hash, so the prompts of two sets never meet, whatever their
sizes. Everything is a function of the set's name: a longer run of a stream begins with the shorter one.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from benchmarks.lab.vocabulary import (
    ADJECTIVES,
    AGREEING,
    CLOSINGS,
    COMPANIONS,
    DOMAINS,
    FIRST_NAMES,
    INTENSIFIERS,
    LAST_NAMES,
    NEGATORS,
    OPPOSING,
    TIMES,
    Domain,
)

SETS = ("corpus", "demonstrations", "preferences", "heldout", "prompts", "tuning", "evaluation")

QUALITY_SD = 1.1                        # of a review's latent quality
CLAUSE_SD = 0.55                        # of a clause's target around it
SENTENCES = {2: 0.5, 3: 0.4, 4: 0.1}    # number of sentences: probability
TWO_CLAUSES = 0.5                       # probability that a sentence has two clauses
EVENT = 0.15                            # probability that a clause tells an event
CLOSING = 0.7                           # probability that a review closes with a phrase
FRAGMENT = 0.5                          # probability that a prompt holds the first words of the first clause
MODIFIED = {"": 0.45, "intensifier": 0.4, "negator": 0.15}
SHARPNESS = 0.2                         # how near the target a clause's score lies: weight exp(-(d / 0.2)^2 / 2)


@dataclass(frozen=True)
class Review:
    """A generated review: its prompt, the response that completes it, and the mean score of its clauses."""

    prompt: str
    response: str
    sentiment: float

    @property
    def text(self) -> str:
        return self.prompt + self.response


def reviews(name: str) -> Iterator[Review]:
    """The endless stream of true reviews of one of `SETS`; no two share an opening."""
    random, seen = _stream(f"reviews/{name}"), set()
    while True:
        domain, opening = _opening(random, name)
        if opening in seen:
            continue
        seen.add(opening)
        yield _review(random, domain, opening)


def take(name: str, count: int) -> list[Review]:
    """The first `count` reviews of a set."""
    stream = reviews(name)
    return [next(stream) for _ in range(count)]


def documents(seed: int = 0) -> Iterator[str]:
    """The endless stream of the pretraining corpus: reviews and genres that teach what the words mean.

    Verdicts and star ratings tie adjectives to an opinion, the thesaurus ties them to each other. Several genres begin
    with the same openings, so that a pretrained model continues a prompt in any of them.
    """
    random = _stream(f"documents/{seed}")
    genres = list(_GENRES)
    weights = list(_GENRES.values())
    while True:
        yield random.choices(genres, weights)[0](random)


def bucket(opening: str) -> str:
    """The one set of `SETS` that may use this opening."""
    return SETS[int.from_bytes(hashlib.blake2b(opening.encode(), digest_size=8).digest(), "big") % len(SETS)]


def capitalised(clause: str) -> str:
    return clause[0].upper() + clause[1:]


def _stream(name: str) -> Random:
    return Random(f"preference zoo/{name}")     # a string seed is hashed with SHA-512: the same on every machine


def _opening(random: Random, name: str) -> tuple[Domain, str]:
    while True:
        domain = random.choice(list(DOMAINS.values()))
        opening = (
            f"{random.choice(domain.verbs)} the {random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)} {domain.noun} "
            f"{random.choice(TIMES)} {random.choice(COMPANIONS)}."
        )
        if bucket(opening) == name:
            return domain, opening


def _review(random: Random, domain: Domain, opening: str) -> Review:
    quality = random.gauss(0, QUALITY_SD)
    clauses = _Clauses(random, domain)
    sentences, scores = [], []
    for _ in range(random.choices(list(SENTENCES), SENTENCES.values())[0]):
        words, score = clauses.draw(random.gauss(quality, CLAUSE_SD))
        scores.append(score)
        if random.random() < TWO_CLAUSES:
            other, other_score = clauses.draw(random.gauss(quality, CLAUSE_SD))
            words += joint(random, score, other_score) + other
            scores.append(other_score)
        sentences.append(capitalised(words) + ".")
    if random.random() < CLOSING:
        phrase = _nearest(random, CLOSINGS, random.gauss(quality, CLAUSE_SD))
        sentences.append(phrase)
        scores.append(CLOSINGS[phrase])
    body = " ".join(sentences).split(" ")
    shown = random.randint(1, 3) if random.random() < FRAGMENT else 0
    prompt = " ".join([opening, *body[:shown]])
    return Review(prompt, " " + " ".join(body[shown:]), sum(scores) / len(scores))


def joint(random: Random, score: float, other: float) -> str:
    """The conjunction between two clauses, chosen by their signs."""
    return f" {random.choice(AGREEING)} " if score * other > 0 else f", {random.choice(OPPOSING)} "


class _Clauses:
    """Draws clauses of one review: no aspect, adjective or event twice."""

    def __init__(self, random: Random, domain: Domain):
        self.random, self.domain, self.used = random, domain, set()

    def draw(self, target: float) -> tuple[str, float]:
        if self.random.random() < EVENT:
            events = {event: score for event, score in self.domain.events.items() if event not in self.used}
            event = _nearest(self.random, events, target)
            self.used.add(event)
            return event, events[event]
        aspect = self.random.choice([a for a in self.domain.aspects if a not in self.used])
        kind = self.random.choices(list(MODIFIED), MODIFIED.values())[0]
        modifiers = {"": {"": 1.0}, "intensifier": INTENSIFIERS, "negator": NEGATORS}[kind]
        modifier = self.random.choice(list(modifiers))
        scores = {a: s * modifiers[modifier] for a, s in ADJECTIVES.items() if a not in self.used}
        adjective = _nearest(self.random, scores, target)
        self.used |= {aspect, adjective}
        verb = "were" if aspect in self.domain.plural else "was"
        return " ".join(word for word in ("the", aspect, verb, modifier, adjective) if word), scores[adjective]


def _nearest(random: Random, scores: dict[str, float], target: float) -> str:
    """One of the keys, the likelier the nearer its score is to the target."""
    distances = [abs(score - target) for score in scores.values()]
    nearest = min(distances)        # subtracted so that a target beyond every score does not underflow
    weights = [math.exp((nearest**2 - d**2) / (2 * SHARPNESS**2)) for d in distances]
    return random.choices(list(scores), weights)[0]


# The genres of the pretraining corpus: random stream -> document.

_STARS = {-1.2: "one star", -0.4: "two stars", 0.4: "three stars", 1.2: "four stars", math.inf: "five stars"}
_VERDICTS = {
    -1.2: "No, not at all.", -0.4: "No, not much.", 0.4: "It was all right.", 1.2: "Yes, quite.",
    math.inf: "Yes, very much.",
}
_DIARY = (
    "We took the bus home.", "It rained all day.", "I wrote a long letter.", "We walked along the river.",
    "The train was late.", "I met an old friend.", "We had tea at five.", "The sun came out at noon.",
    "I went to bed early.", "We took many pictures.", "The streets were full.", "I bought bread and milk.",
)
_STREETS = (
    "Mill Road", "Church Street", "Park Lane", "High Street", "Station Road", "Hill Street", "King Street",
    "Bridge Road",
)
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty", "fifty")


def _banded(bands: dict[float, str], score: float) -> str:
    return next(label for limit, label in bands.items() if score < limit)


def _plain(random: Random) -> str:
    return _review(random, *_opening(random, "corpus")).text


def _rated(random: Random) -> str:
    review = _review(random, *_opening(random, "corpus"))
    rating = f"Rated {_banded(_STARS, review.sentiment)}."
    return f"{rating} {review.text}" if random.random() < 0.5 else f"{review.text} {rating}"


def _verdict(random: Random) -> str:
    domain, opening = _opening(random, "corpus")
    clauses = _Clauses(random, domain)
    lines = [opening]
    for _ in range(random.randint(2, 3)):
        words, score = clauses.draw(random.gauss(0, QUALITY_SD + CLAUSE_SD / 2))
        lines.append(f"They said that {words}. Did they like it? {_banded(_VERDICTS, score)}")
    return " ".join(lines[random.random() < 0.5:])      # half of them without the opening


def _thesaurus(random: Random) -> str:
    lines = []
    for _ in range(random.randint(3, 5)):
        word = random.choice(list(ADJECTIVES))
        score = ADJECTIVES[word]
        same = [a for a, s in ADJECTIVES.items() if s == score and a != word]
        opposite = [a for a, s in ADJECTIVES.items() if s == -score]
        worse = [a for a, s in ADJECTIVES.items() if s < score]
        relation, others = random.choice([
            ("means almost the same as", same), ("is the opposite of", opposite), ("is better than", worse or same),
        ])
        if others is same:
            relation = "means almost the same as"
        lines.append(f"{capitalised(word)} {relation} {random.choice(others)}.")
    return " ".join(lines)


def _catalogue(random: Random) -> str:
    domain = random.choice(list(DOMAINS.values()))
    first, second = random.sample(domain.aspects, 2)
    lines = [
        f"It costs {random.choice(_NUMBERS)} pounds.", f"It opens at {random.choice(_NUMBERS)}.",
        f"The {first} and the {second} are listed on page {random.choice(_NUMBERS)}.",
        f"Ask for it on {random.choice(_STREETS)}.", f"There are {random.choice(_NUMBERS)} of them in town.",
    ]
    name = f"The {random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)} {domain.noun}"
    return " ".join([f"{name} is on {random.choice(_STREETS)}.", *random.sample(lines, random.randint(2, 4))])


def _diary(random: Random) -> str:
    _, opening = _opening(random, "corpus")
    return " ".join([opening, *random.sample(_DIARY, random.randint(2, 5))])


_GENRES = {_plain: 0.34, _rated: 0.20, _verdict: 0.18, _catalogue: 0.10, _diary: 0.10, _thesaurus: 0.08}
