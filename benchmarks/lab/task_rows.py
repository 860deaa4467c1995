"""The rows of the tasks lab: each question in a wording of its own, its answer, options to choose from, its parts.

A row asks what a dialogue of the corpus asks too (or, for reasoning, what the corpus never concludes), but in other
words. Several rows ask the same question with other options; no two rows of a task are equal.
"""

import gzip
import io
import json
from collections import Counter
from pathlib import Path
from random import Random

from benchmarks.lab import chains, corpus

ROWS = 512                      # of a task
REASONING_ROWS = 256
OPTIONS = (3, 5)                # least and most options of a row, where there are as many

# The wording of `question`; the dialogues' own is in corpus.ASKED and chains.KINDS.
WORDINGS = {
    "city": "Which city is the home of {person}?",
    "job": "What is the job of {person}?",
    "food": "Which food does {person} like best?",
    "pet": "What pet does {person} have?",
    "age": "What is the age of {person}?",
    "opposite": "Which word is the opposite of {word}?",
    "synonym": "Which word means the same as {word}?",
    "plural": "How is {word} written when there are two?",
    "past": "Which form of {word} tells of yesterday?",
    "day_after": "What day follows {start}?",
    "day_before": "What day is just before {start}?",
    "month_after": "What month follows {start}?",
    "month_before": "What month is just before {start}?",
    "plus": "How much is {a} plus {b}?",
    "minus": "How much is {a} minus {b}?",
    "next_number": "What number follows {a}?",
    "liked": "{review} Would the guest come again?",
    "mood": "{review} What was the mood of the guest?",
    "tone": "{review} What kind of review is it?",
    "class": "The {animal} is one of which kind of animal?",
    "habitat": "Which place is the home of the {animal}?",
    "colour": "Which colour does the {animal} have?",
    "first_word": "{words}: which word comes first?",
    "last_word": "{words}: which word comes last?",
    "bigger": "Is the {a} or the {b} the bigger one?",
    "pet_class": "What kind of animal has {person}?",
    "pet_home": "Where in the wild would the pet of {person} live?",
    "pet_colour": "Which colour is the pet of {person}?",
    "workplace": "At which place is {person} at work?",
    "country": "In which country is {person} at home?",
    "days": "Which day is {count} days after {start}?",
    "months": "Which month is {count} months after {start}?",
    "numbers": "Which number is {count} numbers after {start}?",
    "sum3": "How much is {a} plus {b} plus {c}?",
}


def rows(task: str) -> list[dict[str, str | list[str]]]:
    """The rows of a task, always the same: question, answer, options, the question's parts, a rationale, a number."""
    random, made, places = Random(f"preference zoo/rows/{task}"), {}, Counter()
    cases = _chained(task) if task in chains.KINDS else _asked(task)
    count = REASONING_ROWS if task in chains.KINDS else ROWS
    while len(made) < count:
        random.shuffle(cases)
        for answers, wrong, row in cases[:count - len(made)]:
            answer = random.choice(answers)
            options = random.sample(wrong, min(len(wrong), random.randint(*OPTIONS) - 1))
            options.insert(places[len(options)] % (len(options) + 1), answer)      # every place equally often
            places[len(options) - 1] += 1
            row = {"question": WORDINGS[task].format(**row), "answer": answer, "options": options, **row}
            made[json.dumps(row)] = row
    return [{**row, "id": str(number)} for number, row in enumerate(made.values(), 1)]


def _asked(task: str) -> list[tuple]:
    """(right answers, wrong ones, fields) of each question of the corpus that the task may ask."""
    return [(found.answers, found.wrong, found.parts) for found in corpus.questions(task)[1]]


def _chained(task: str) -> list[tuple]:
    """The same of each chain that the corpus does not work out."""
    candidates = chains.KINDS[task].candidates
    return [
        ((chain.answer,), tuple(c for c in candidates if c != chain.answer), {**chain.parts, "rationale": chain.steps})
        for chain in chains.worked(task)[1]
    ]


def write_rows(path: Path, found: list[dict]) -> None:
    """Gzipped JSON lines without a time stamp or name: equal rows give an equal file."""
    raw = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.write("".join(json.dumps(row) + "\n" for row in found).encode())
    path.write_bytes(raw.getvalue())


def read_rows(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
