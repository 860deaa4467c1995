"""Made-up film reviews, the lab's tiny model as the one that judges them, and a head that learned from them."""

from __future__ import annotations

import bz2
import csv
from pathlib import Path
from random import Random

from benchmarks.real import film_data, make_gold, make_samples
from benchmarks.real.gold import HEAD

FILMS, REVIEWS = 80, 8  # of each, half of them fresh
BASE = "benchmarks/lab/reviews"
PRAISE, BLAME = ("warm", "clever", "moving", "splendid"), ("dull", "clumsy", "hollow", "tiresome")
PARTS = ("plot", "cast", "music", "ending", "dialogue", "photography", "direction", "pace")


def write_reviews(file: Path) -> Path:
    random = Random(0)
    with bz2.open(file, "wt", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["category", "text", "movie_name", "has_plot_and_reviews"])
        for film in range(FILMS):
            rows.writerow(["plot", "Somebody looks for something and finds it at last.", f"film_{film}", "True"])
            for number in range(REVIEWS):
                first, second = random.sample(PARTS, 2)
                words = [random.choice(PRAISE if number % 2 else BLAME) for _ in range(2)]
                text = f"The {film * REVIEWS + number}th  {first} is {words[0]} &amp; the {second} more {words[1]}."
                rows.writerow(["fresh" if number % 2 else "rotten", text, f"film_{film}", "True"])
    return file


def set_up(folder: Path) -> list[str]:
    """Overrides that put the stand-in for the package, the model and the committed files."""
    path, samples = write_reviews(folder / "reviews.csv.bz2"), folder / "samples.jsonl.gz"
    make_gold.make(folder, str(path), BASE, (1, 2))
    random, rows = Random(1), []
    for review in film_data.sampled_reviews(str(path), 60, 12):
        texts = [f" {random.choice(PRAISE + BLAME)} {review.number % 97} {draw} times over again." for draw in range(4)]
        rows.append({"review": f"{review.number:016x}", "responses": texts, "finished": [True, True, True, False],
                     "z": [random.gauss(0, 2) for _ in texts], "nll": [4.0] * 4})
    make_samples.write(rows, samples)
    return [f"data.path={path}", f"data.model={BASE}", f"data.head={folder / HEAD.name}", f"data.samples={samples}"]
