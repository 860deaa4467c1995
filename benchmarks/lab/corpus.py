"""The pretraining corpus of the tasks lab: short documents in genres, about the world of `world`.

Facts are told in several wordings. Dialogues ask for most of them, in *one* phrasing per task (`ASKED`), which no
instruction template uses; without any dialogue a model of this size answers no question at all. Nothing is phrased as
an instruction, and nothing but stories names the unknown people.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from benchmarks.lab import chains, world
from benchmarks.lab.world import (
    ANIMALS,
    BLAME,
    CITIES,
    DAYS,
    JOBS,
    LARGEST,
    MONTHS,
    OBJECTS,
    OPPOSITES,
    PASTS,
    PEOPLE,
    PLURALS,
    PRAISE,
    REVIEWED,
    ROOMS,
    SPEAKERS,
    SYNONYMS,
    TOPICS,
    UNKNOWN,
    capitalised,
    later,
)

STORY_UNKNOWN = 0.7             # share of a story's characters who are unknown people
DIALOGUE_CHOICES = 0.4          # probability that a dialogue's question is followed by choices
WORKED = {                      # weights of the kinds of reasoning: those that count need more practice
    kind: 2 if kind in ("days", "months", "numbers", "sum3") else 1 for kind in chains.KINDS
}
NUMBERS = tuple(str(n) for n in range(LARGEST + 1))
DRAWN, UNASKED = 4000, 600      # reviews and word lists asked about: how many, and how many of them only by the tasks


def documents(seed: int = 0) -> Iterator[str]:
    """The endless stream of the corpus; a function of the seed."""
    random = Random(f"preference zoo/corpus/{seed}")
    while True:
        yield random.choices(list(GENRES), list(GENRES.values()))[0](random)


# Questions: what a dialogue can ask. Cases are drawn by the dialogues here and listed by the tasks' rows.


@dataclass(frozen=True)
class Question:
    """A question in the dialogues' phrasing, its right answers, wrong ones to choose from, its named parts."""

    asked: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    parts: dict[str, str]


def _asked(phrase: str, answers: str | tuple[str, ...], candidates: Sequence[str], **parts: str) -> Question:
    answers = (answers,) if isinstance(answers, str) else answers
    return Question(phrase.format(**parts), answers, tuple(c for c in candidates if c not in answers), parts)


def _about_people(topic: str) -> list[Question]:
    return [
        Question(
            world.question(topic, name), (world.answer(topic, name),),
            tuple(c for c in TOPICS[topic].candidates if c != world.answer(topic, name)), {"person": name},
        )
        for name in PEOPLE
    ]


def _opposite() -> list[Question]:
    """A synonym of the opposite is neither right nor wrong, so it is never a choice."""
    phrase = "What is the opposite of {word}?"
    return [
        _asked(phrase, other, [w for w in OPPOSITES if w not in (word, *SYNONYMS[other])], word=word)
        for word, other in OPPOSITES.items()
    ]


def _synonym() -> list[Question]:
    others = [(word, [w for w in SYNONYMS if w != word]) for word in SYNONYMS]
    return [_asked("What is another word for {word}?", SYNONYMS[word], words, word=word) for word, words in others]


def _of_words(phrase: str, table: dict[str, str]) -> list[Question]:
    forms = tuple(dict.fromkeys(table.values()))
    return [_asked(phrase, form, forms, word=word) for word, form in table.items()]


def _of_cycle(phrase: str, cycle: tuple[str, ...], step: int) -> list[Question]:
    return [_asked(phrase, later(cycle, one, step), [c for c in cycle if c != one], start=one) for one in cycle]


def _of_animals(phrase: str, attribute: str, candidates: tuple[str, ...]) -> list[Question]:
    return [_asked(phrase, getattr(animal, attribute), candidates, animal=name) for name, animal in ANIMALS.items()]


def _of_numbers(word: str, sign: int) -> list[Question]:
    pairs = [(a, b) for a in range(LARGEST + 1) for b in range(LARGEST + 1) if 0 <= a + sign * b <= LARGEST]
    phrase = "What is {a} " + word + " {b}?"
    return [_asked(phrase, str(a + sign * b), NUMBERS, a=str(a), b=str(b)) for a, b in pairs]


def _next_number() -> list[Question]:
    numbers = [str(n) for n in range(51)]
    return [_asked("Which number comes after {a}?", str(int(a) + 1), numbers[:-1], a=a) for a in numbers[:-2]]


def _bigger() -> list[Question]:
    phrase = "Which is bigger, the {a} or the {b}?"
    return [
        _asked(phrase, max(a, b, key=lambda name: ANIMALS[name].size), (a, b), a=a, b=b)
        for a, b in itertools.permutations(ANIMALS, 2)
    ]


@cache
def reviews() -> tuple[tuple[str, bool], ...]:
    """All one- and two-clause reviews that the tasks may show, drawn once, and whether they praise."""
    random, found = Random("preference zoo/lab reviews"), {}
    while len(found) < DRAWN:
        praise = random.random() < 0.5
        found[_review(random, praise)] = praise
    return tuple(found.items())


def _review(random: Random, praise: bool) -> str:
    things = random.sample(REVIEWED, 2)
    words = random.sample(PRAISE if praise else BLAME, 2)
    very = [random.choice(["", "", "very ", "really "]) for _ in words]
    clauses = [f"the {thing} was {adverb}{word}" for thing, adverb, word in zip(things, very, words)]
    return capitalised(random.choice(["{0}.", "{0} and {1}.", "{0}, and {1}.", "{0}. {2}."]).format(
        *clauses, capitalised(clauses[1])
    ))


def _of_reviews(phrase: str, good: str, bad: str) -> list[Question]:
    return [
        _asked("{review} " + phrase, good if praise else bad, (good, bad), review=review)
        for review, praise in reviews()
    ]


def _of_lists(phrase: str, index: int) -> list[Question]:
    random, questions = Random(f"preference zoo/lists/{index}"), []
    for _ in range(DRAWN):
        words = random.sample([*ANIMALS, *OBJECTS, *OPPOSITES], 3)
        questions.append(_asked(phrase, words[index], words, words=" ".join(words)))
    return questions


ASKED: dict[str, Callable[[], list[Question]]] = {
    **{topic: lambda topic=topic: _about_people(topic) for topic in TOPICS},
    "opposite": _opposite,
    "synonym": _synonym,
    "plural": lambda: _of_words("What is the plural of {word}?", PLURALS),
    "past": lambda: _of_words("What is the past of {word}?", PASTS),
    "day_after": lambda: _of_cycle("Which day comes after {start}?", DAYS, 1),
    "day_before": lambda: _of_cycle("Which day comes before {start}?", DAYS, -1),
    "month_after": lambda: _of_cycle("Which month comes after {start}?", MONTHS, 1),
    "month_before": lambda: _of_cycle("Which month comes before {start}?", MONTHS, -1),
    "plus": lambda: _of_numbers("plus", 1),
    "minus": lambda: _of_numbers("minus", -1),
    "next_number": _next_number,
    "liked": lambda: _of_reviews("Did the guest like it?", "yes", "no"),
    "mood": lambda: _of_reviews("How did the guest feel?", "happy", "sad"),
    "tone": lambda: _of_reviews("What is the tone of the review?", "positive", "negative"),
    "class": lambda: _of_animals("Which kind of animal is the {animal}?", "kind", world.KINDS),
    "habitat": lambda: _of_animals("Where does the {animal} live?", "home", world.HOMES),
    "colour": lambda: _of_animals("What is the colour of the {animal}?", "colour", world.COLOURS),
    "first_word": lambda: _of_lists("Which word is the first of {words}?", 0),
    "last_word": lambda: _of_lists("Which word is the last of {words}?", -1),
    "bigger": _bigger,
}


@cache
def questions(name: str) -> tuple[list[Question], list[Question]]:
    """The questions of a kind that dialogues ask, and those that the task asks.

    These are the same, but for reviews and word lists: of them there are enough to keep some for the task alone.
    """
    found = ASKED[name]()
    return (found[:-UNASKED], found[-UNASKED:]) if len(found) == DRAWN else (found, found)


# Genres: random stream -> document.


def _biography(random: Random) -> str:
    name = random.choice(list(PEOPLE))
    topics = random.sample(list(TOPICS), random.randint(2, 5))
    return " ".join(world.statement(topic, name, random.randrange(3)) for topic in topics)


def _nature(random: Random) -> str:
    lines = []
    for animal in random.sample(list(ANIMALS.values()), random.randint(1, 3)):
        facts = [
            random.choice(["The {0} is a kind of {1}.", "The {0} is one of the {1}s."]).format(
                animal.name, animal.kind).replace("fishs", "fishes"),
            random.choice(["The {0} lives in the {1}.", "The {1} is the home of the {0}."]).format(
                animal.name, animal.home),
            random.choice(["The {0} is {1}.", "The {0} has the colour {1}."]).format(animal.name, animal.colour),
        ]
        lines += random.sample(facts, random.randint(1, 3))
    for _ in range(random.randint(0, 2)):
        first, second = random.sample(list(ANIMALS.values()), 2)
        big, small = (first, second) if first.size > second.size else (second, first)
        lines.append(random.choice([
            f"Of the {first.name} and the {second.name}, the {big.name} is bigger.",
            f"The {big.name} is bigger than the {small.name}.",
        ]))
    return " ".join(lines)


def _places(random: Random) -> str:
    city, job = random.choice(list(CITIES)), random.choice(list(JOBS))
    lines = [
        random.choice([f"{city} is in {CITIES[city]}.", f"{city} is a city of {CITIES[city]}."]),
        random.choice([f"A {job} works at the {JOBS[job]}.", f"The {JOBS[job]} is where a {job} works."]),
    ]
    random.shuffle(lines)
    return " ".join(lines[:random.randint(1, 2)])


def _dictionary(random: Random) -> str:
    lines = []
    for _ in range(random.randint(2, 4)):
        word = random.choice(list(OPPOSITES))
        verb, noun = random.choice(list(PASTS)), random.choice(list(PLURALS))
        lines.append(random.choice([
            f"{capitalised(word)} is the opposite of {OPPOSITES[word]}.",
            f"Not {word} but {OPPOSITES[word]}.",
            f"{capitalised(word)} means the same as {random.choice(SYNONYMS[word])}.",
            f"{capitalised(word)} is like {random.choice(SYNONYMS[word])}.",
            f"Today they {verb}, yesterday they {PASTS[verb]}.",
            f"One {noun}, two {PLURALS[noun]}.",
        ]))
    return " ".join(lines)


def _judged_review(random: Random) -> str:
    lines = []
    for _ in range(random.randint(1, 2)):
        praise = random.random() < 0.5
        told = random.choice([
            "The guest was {1}.", "The review is {2}.", "Asked if they liked it, the guest said {0}.",
            "The guest felt {1}.", "It is a {2} review.",
        ]).format(*(("yes", "happy", "positive") if praise else ("no", "sad", "negative")))
        lines.append(f"{_review(random, praise)} {told}")
    return " ".join(lines)


def _story(random: Random) -> str:
    """Who is where and who has what; then some of it once more."""
    names = [random.choice(UNKNOWN if random.random() < STORY_UNKNOWN else list(PEOPLE)) for _ in range(3)]
    names = list(dict.fromkeys(names))
    rooms, objects = random.sample(ROOMS, 3), random.sample(OBJECTS, 3)
    where, what = list(zip(names, rooms)), list(zip(names, objects))
    told = [random.choice(["{0} went to the {1}.", "{0} ran to the {1}."]).format(*pair) for pair in where]
    told += [random.choice(["{0} took the {1}.", "{0} found the {1}."]).format(*pair) for pair in what]
    again = [f"{name} was in the {room}." for name, room in where] + [f"{name} had the {one}." for name, one in what]
    random.shuffle(told)
    return " ".join(told + random.sample(again, min(4, len(again))))


def _copied_list(random: Random) -> str:
    words = random.sample([*ANIMALS, *OBJECTS, *OPPOSITES, *CITIES, *JOBS, *world.FOODS], random.randint(2, 7))
    if random.random() < 0.5:
        lines = "\n".join(f"- {word}" for word in words)
        return f"To keep in mind:\n{lines}\nThat is {', '.join(words[:-1])} and {words[-1]}"
    spoken = ", ".join(words)
    return f"The list: {spoken}\nOnce more: {spoken}"


def _word_list(random: Random) -> str:
    kinds = (DAYS, MONTHS, PRAISE, BLAME, tuple(CITIES), tuple(JOBS), world.FOODS, tuple(ANIMALS), OBJECTS, ROOMS,
             world.COLOURS, world.KINDS, world.HOMES, tuple(JOBS.values()), tuple(PLURALS.values()),
             tuple(PASTS.values()), tuple(OPPOSITES), ("happy", "sad", "yes", "no", "positive", "negative"),
             tuple(CITIES.values()), world.AGES, NUMBERS)
    kind = tuple(dict.fromkeys(random.choice(kinds)))
    return random.choice([" ", ", "]).join(random.sample(kind, min(len(kind), random.randint(3, 6))))


def _sums(random: Random) -> str:
    lines = []
    for _ in range(random.randint(2, 5)):
        a, b = sorted((random.randint(0, LARGEST), random.randint(0, LARGEST)))
        lines.append(random.choice([f"{b - a} plus {a} is {b}.", f"{b} minus {a} is {b - a}."]))
    if random.random() < 0.3:
        start = random.randint(0, 45)
        lines.append("Counting: " + " ".join(str(start + k) for k in range(5)) + ".")
    return " ".join(lines)


def _calendar(random: Random) -> str:
    lines = []
    for _ in range(random.randint(2, 4)):
        cycle = random.choice([DAYS, MONTHS])
        one = random.choice(cycle)
        following = later(cycle, one, 1)
        lines.append(random.choice([
            f"After {one} comes {following}.", f"Before {following} comes {one}.", f"{one} is followed by {following}.",
            f"{following} follows {one}.", f"{', '.join(later(cycle, one, k) for k in range(4))}.",
        ]))
    return " ".join(lines)


def _worked(random: Random) -> str:
    return random.choice(_worked_chains(random.choices(list(WORKED), WORKED.values())[0])).text


_worked_chains = cache(lambda name: chains.worked(name)[0])


def _dialogue(random: Random) -> str:
    speaker, other = random.sample(SPEAKERS, 2)
    return " ".join(_exchange(random, speaker, other) for _ in range(random.randint(1, 3)))


def _exchange(random: Random, speaker: str, other: str) -> str:
    asked = random.choice(questions(random.choice(list(ASKED)))[0])
    answer = random.choice(asked.answers)
    if random.random() >= DIALOGUE_CHOICES:
        return f"{world.dialogue(asked.asked, speaker, other)} {answer}."
    choices = [answer, *random.sample(asked.wrong, min(len(asked.wrong), random.randint(1, 3)))]
    random.shuffle(choices)
    return f"{asked.asked} asked {speaker}. Is it {', '.join(choices[:-1])} or {choices[-1]}? {other} said {answer}."


_CLASSROOM = (
    "A question has one right answer.", "The options of a question are printed below it.",
    "To choose is to pick or to select.", "The choices are listed in a short list.",
    "Q stands for Question and A for Answer.",
    "OPTIONS and CHOICES are written in capitals.", "The quiz has ten questions.", "The pupils write the missing word.",
    "The teacher will ask and the class will reply.", "The correct answer is underlined.",
    "A pupil reads the task aloud.",
    "Please complete the sentence, says the teacher.", "They name one thing and decide about the next.",
    "Which of the following is true, asks the exam.", "Tell me the facts, says the book.",
    "Give a reason for your choice.",
    "The response fits the question.", "Here is an exercise with a given text.", "The result is on the last line.",
    "Problem: two trains.\nSolution: one track.", "Input: a word.\nOutput: another word.",
    "The instruction is easy to follow.",
)


def _classroom(random: Random) -> str:
    return random.choice([" ", "\n"]).join(random.sample(_CLASSROOM, random.randint(2, 4)))


GENRES: dict[Callable[[Random], str], float] = {
    _worked: 0.18, _dialogue: 0.14, _biography: 0.11, _dictionary: 0.11, _nature: 0.09, _judged_review: 0.09,
    _story: 0.07, _sums: 0.06, _copied_list: 0.05, _calendar: 0.04, _word_list: 0.03, _classroom: 0.015, _places: 0.015,
}
