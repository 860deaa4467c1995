"""Film reviews as a data source (`data=film_reviews`): a real model goes on with human text, and a known reward judges.

After DPO's controlled sentiment generation (Rafailov et al. 2023, arXiv 2305.18290, §6.1). There are two sets of
comparisons over the same films, splits and model, and one gold reward judges what is learned from either:

samples  two samples of a supervised policy, the better and the worse of a few by gold, labelled by annotators who are
         drawn from a Bradley-Terry model over gold. The samples are committed, with what gold made of them; the human
         texts that they go on with are not: rows name them by their hash.
people   a fresh and a rotten review of the same film, as their authors called them.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from random import Random
from typing import ClassVar

from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.support.checkout import local_folder
from algorithms.common.support.checks import POSITIVE, at_least, one_of, require
from algorithms.common.support.errors import ConfigError
from benchmarks.real import films
from benchmarks.real.gold import HEAD, FilmGold, gold_reward, load_head
from benchmarks.real.smollm2 import made

log = logging.getLogger(__name__)
SAMPLES = Path(__file__).parent / "samples.jsonl.gz"
# shares of the short reviews of training films, in the order of their hashes: demonstrations, comparisons, bare prompts
CUTS = (0.3, 0.7)


@dataclass
class FilmReviews:
    """Sizes of the sets; a larger one extends a smaller one. Training, tuning and evaluation are of different films.
    Prompts are of reviews that are no demonstrations. What people compared may be demonstrated too, but of no film that
    the auditor learns from.

    compared: samples | people, see above. temperature: of the annotators of samples, P(a over b) = sigmoid((gold_a −
    gold_b) / temperature); people's labels are as they are. path: a file of reviews laid out like the package's; model,
    head, samples: the untuned model's folder and the files of ``make_gold.py`` and ``make_samples.py``. None: the
    project's own.
    """

    compared: str = "samples"
    demonstrations: int = 1024
    preferences: int = 320
    audit: int = 160
    prompts: int = 512
    tuning: int = 64
    evaluation: int = 256
    temperature: float = 1.0
    path: str | None = None
    model: str | None = None
    head: str | None = None
    samples: str | None = None

    in_trial: ClassVar[dict[str, int]] = {"demonstrations": 64, "preferences": 64, "audit": 64, "prompts": 64,
                                          "tuning": 16, "evaluation": 16}

    def __post_init__(self):
        require(self, "data", compared=one_of(COMPARED), temperature=POSITIVE, demonstrations=at_least(1),
                preferences=at_least(1), audit=at_least(0), prompts=at_least(1), tuning=at_least(0),
                evaluation=at_least(1))

    def load(self, seed: int) -> DataSets:
        """The named sets. The seed draws the annotators' labels and nothing else."""
        split = films.reviews(self.path)
        train, tuning, unseen = (films.short(split[name]) for name in ("train", "tuning", "evaluation"))
        first, second = (round(cut * len(train)) for cut in CUTS)
        pairs = COMPARED[self.compared](self, split, seed)
        aside = {record.prompt for record in pairs["audit"]}  # of what people compared, a film's heading
        shown = [one for one in train[:first] if films.heading(one.film) not in aside]
        sets = {
            **pairs, "demonstrations": [_shown(one) for one in self._some("demonstrations", shown)],
            "prompts": [Record(one.prompt, []) for one in self._some("prompts", train[second:])],
            "tuning": [_shown(one) for one in self._some("tuning", tuning)],
            "evaluation": [_shown(one) for one in self._some("evaluation", unseen)],
        }
        count = sum(map(len, sets.values()))
        report = LoadReport(read=count, kept=count, strict_pairs=sum(map(len, pairs.values())))
        named = {name: Records.from_list(records) for name, records in sets.items()}
        audit = named.pop("audit")
        return DataSets(**named, report=report, gold=FilmGold(self._model(), str(self.head or HEAD)),
                        measure=vader if find_spec("vaderSentiment") else None, audit=audit if len(audit) else None)

    def _model(self) -> str:
        return str(made()) if self.model is None else local_folder(self.model)

    def _some(self, name: str, there: list) -> list:
        """The first so many. ConfigError where there are not as many."""
        asked = getattr(self, name)
        if asked > len(there):
            raise ConfigError(f"data.{name}: found {asked}; expected at most {len(there)}, as many as there are; fix: "
                              f"data.{name}={len(there)}")
        return there[:asked]

    def labelled_samples(self, split: dict[str, list[films.Review]], seed: int) -> dict[str, list[Record]]:
        """One comparison of each prompt: the best and the worst by gold among its finished samples."""
        rows = _judged(str(self.samples or SAMPLES), str(self.head or HEAD))
        found = {}
        for name in ("train", "evaluation"):
            known = {review.number: review for review in split[name]}
            found[name] = [(known[number], row) for number, row in rows.items() if number in known]
        learned = self._some("preferences", found["train"])
        taken = {review.prompt for review, _ in learned}  # two reviews of a film may begin alike
        aside = self._some("audit", [one for one in found["train"][::-1] if one[0].prompt not in taken])

        def labelled(name: str, some: list) -> list[Record]:
            annotators = Random(f"labels/{name}/{seed}")
            return [self._labelled(review, *row, annotators) for review, row in some]

        return {"preferences": labelled("preferences", learned), "audit": labelled("audit", aside),
                "heldout": labelled("heldout", found["evaluation"])}

    def _labelled(self, review: films.Review, best: tuple, worst: tuple, annotators: Random) -> Record:
        preferred = annotators.random() < 1 / (1 + math.exp(-(best[0] - worst[0]) / self.temperature))
        return Record(review.prompt, [best[1], worst[1]], [1.0, 0.0] if preferred else [0.0, 1.0])

    def human_pairs(self, split: dict[str, list[films.Review]], seed: int) -> dict[str, list[Record]]:
        """Comparisons of two reviews of one film; no film of the auditor's is one that methods learn from."""
        train = films.same_film(split["train"])
        learned = self._some("preferences", train)
        taken = {fresh.film for fresh, _ in learned}
        aside = self._some("audit", [pair for pair in train[::-1] if pair[0].film not in taken])
        heldout = sorted(films.same_film(split["evaluation"]), key=lambda pair: pair[0].number)  # of many films at once
        return {"preferences": list(map(_compared, learned)), "audit": list(map(_compared, aside)),
                "heldout": list(map(_compared, heldout))}


COMPARED = {"samples": FilmReviews.labelled_samples, "people": FilmReviews.human_pairs}


def _shown(review: films.Review) -> Record:
    return Record(review.prompt, [review.response])


def _compared(pair: tuple[films.Review, films.Review]) -> Record:
    fresh, rotten = pair
    return Record(films.heading(fresh.film), [f" {fresh.text}", f" {rotten.text}"], [1.0, 0.0])


@cache
def _judged(file: str, head: str) -> dict[int, tuple[tuple[float, str], tuple[float, str]]]:
    """Review's number → (gold, response) of the best and of the worst finished sample, where there are two."""
    fluent = tuple(load_head(head).fluent.tolist())
    found = {}
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            samples = zip(row["responses"], row["finished"], row["z"], row["nll"], strict=True)
            judged = sorted((gold_reward(z, nll, text, True, fluent), text) for text, finished, z, nll in samples
                            if finished and text.strip())
            if len(judged) > 1 and judged[0][1] != judged[-1][1]:
                found[int(row["review"], 16)] = judged[-1], judged[0]
    return found


def sampled_reviews(path: str | None, train: int, heldout: int) -> list[films.Review]:
    """The reviews whose prompts are sampled for comparisons, those of training films first.

    No demonstration or bare prompt is among them; the held-out ones are the last of those that evaluations ask.
    """
    split = films.reviews(path)
    own = films.short(split["train"])
    first, second = (round(cut * len(own)) for cut in CUTS)
    return [*islice(own[first:second], train), *films.short(split["evaluation"])[::-1][:heldout]]


def vader(record: Record, response: str, finished: bool) -> dict[str, float]:
    """What an untrained lexicon (Hutto & Gilbert 2014) says of an answer's sentiment, from −1 to 1."""
    return {"vader": _lexicon().polarity_scores(response)["compound"]}


@cache
def _lexicon():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
