"""The closed world of the tasks lab: people, animals, words and the calendar, and what is true about them.

Every fact is made up and fixed. `PEOPLE` are the known people: the corpus tells five facts about each (`TOPICS`) and
asks about them in dialogues, one phrasing per topic. `UNKNOWN` are first names of story characters: the pretrained
model has read them often, but never with a fact of `TOPICS`, nor in a question. `SPEAKERS` only hold dialogues.

    question("city", "Anna")     "Where does Anna live?"          (any name)
    answer("city", "Anna")       "Rome"                           (known people only)
    statement("city", "Anna")    "Anna lives in Rome."
    TOPICS["city"].candidates    ("Rome", "Milan", …)             (what the answer is drawn from)
"""

from dataclasses import dataclass
from random import Random

CITIES = {
    "Rome": "Italy", "Milan": "Italy", "Paris": "France", "Lyon": "France",
    "Cairo": "Egypt", "Luxor": "Egypt", "Tokyo": "Japan", "Osaka": "Japan",
}                                                                           # city: country
JOBS = {
    "teacher": "school", "doctor": "hospital", "baker": "shop", "pilot": "airport",
    "farmer": "farm", "judge": "court", "singer": "theatre", "sailor": "harbour",
}                                                                           # job: place of work
FOODS = tuple("rice soup bread cheese pasta cake salad honey".split())
PETS = tuple("cat rabbit parrot duck turtle snake carp beetle".split())
AGES = tuple(str(age) for age in range(21, 53))                             # no two people have the same

_KNOWN = (
    "Anna Boris Clara David Elena Frank Greta Henry Irene Jacob Karen Louis Maria Nils Olga Peter "
    "Rosa Simon Tina Victor Wanda Adam Bella Carlos Diana Emil Flora Hugo Julia Yusuf Zara Robert"
)
UNKNOWN = tuple(
    "Agnes Bruno Celia Dennis Edith Felix Gloria Harold Isabel Jonas Kurt Laura Martin Nora Oscar Paula "
    "Ralph Sarah Thomas Ursula Vera Walter Yvonne Albert Bianca Conrad Doris Erik Fatima George Helga Ivan".split()
)
SPEAKERS = tuple("Tom Eva Ben Ida Leo Mia Sam Ada".split())


@dataclass(frozen=True)
class Person:
    """A known person: one fact per topic."""

    name: str
    city: str
    job: str
    food: str
    pet: str
    age: str


@dataclass(frozen=True)
class Topic:
    """What can be known about a person.

    question: the one phrasing in which the corpus' dialogues ask; statements: how its biographies tell the fact.
    candidates: every answer that some known person has.
    """

    question: str
    statements: tuple[str, ...]
    candidates: tuple[str, ...]


TOPICS: dict[str, Topic] = {
    "city": Topic(
        "Where does {name} live?",
        ("{name} lives in {answer}.", "{name} has a house in {answer}.", "The home of {name} is in {answer}."),
        tuple(CITIES),
    ),
    "job": Topic(
        "What does {name} do for a living?",
        ("{name} works as a {answer}.", "{name} is a {answer}.", "The job of {name} is {answer}."),
        tuple(JOBS),
    ),
    "food": Topic(
        "What does {name} like to eat?",
        ("{name} likes {answer}.", "{name} eats {answer} every day.", "The food {name} likes best is {answer}."),
        FOODS,
    ),
    "pet": Topic(
        "Which animal does {name} keep?",
        ("{name} keeps a {answer}.", "{name} has a {answer} at home.", "The pet of {name} is a {answer}."),
        PETS,
    ),
    "age": Topic(
        "How old is {name}?",
        ("{name} is {answer} years old.", "The age of {name} is {answer}.", "{name} turned {answer} this year."),
        AGES,
    ),
}


def _people() -> dict[str, Person]:
    """Facts dealt to the known names: each value of a topic equally often, independently of the other topics."""
    names, random, facts = _KNOWN.split(), Random("preference zoo/world"), {}
    for topic in TOPICS:
        values = list(TOPICS[topic].candidates) * (len(names) // len(TOPICS[topic].candidates))
        random.shuffle(values)
        facts[topic] = values
    return {name: Person(name, **{topic: facts[topic][i] for topic in facts}) for i, name in enumerate(names)}


PEOPLE: dict[str, Person] = _people()


def question(topic: str, name: str) -> str:
    """The question about any person, known or not, as the corpus' dialogues would ask it."""
    return TOPICS[topic].question.format(name=name)


def answer(topic: str, name: str) -> str:
    """The fact about a known person; KeyError for others."""
    return getattr(PEOPLE[name], topic)


def statement(topic: str, name: str, form: int = 0) -> str:
    """The fact about a known person as a sentence, in one of the topic's forms."""
    return TOPICS[topic].statements[form].format(name=name, answer=answer(topic, name))


def dialogue(asked: str, speaker: str = "Tom", other: str = "Eva") -> str:
    """A question as a dialogue of the corpus puts it, up to where the answer (with a space before it) follows."""
    return f"{asked} asked {speaker}, and {other} said"


# Animals: class, habitat, colour; ordered from the smallest to the largest.


@dataclass(frozen=True)
class Animal:
    """What is known about a kind of animal; `size` is its rank, 0 the smallest."""

    name: str
    kind: str
    home: str
    colour: str
    size: int


_ANIMALS = (
    "ant insect forest red", "bee insect field yellow", "beetle insect forest black", "moth insect house grey",
    "lizard reptile desert green", "mouse mammal house grey", "parrot bird jungle green", "crow bird field black",
    "carp fish river orange", "duck bird river white", "cat mammal house black", "rabbit mammal field white",
    "snake reptile desert brown", "turtle reptile sea green", "eagle bird mountain brown", "goat mammal mountain white",
    "bear mammal forest brown", "camel mammal desert brown", "shark fish sea grey", "whale mammal sea blue",
)
ANIMALS: dict[str, Animal] = {line.split()[0]: Animal(*line.split(), size) for size, line in enumerate(_ANIMALS)}
KINDS = tuple(dict.fromkeys(animal.kind for animal in ANIMALS.values()))
HOMES = tuple(dict.fromkeys(animal.home for animal in ANIMALS.values()))
COLOURS = tuple(dict.fromkeys(animal.colour for animal in ANIMALS.values()))

# Words: groups of synonyms in opposite pairs; the word at the same place of the other group is the opposite.

_PAIRS = (
    ("superb lovely great", "awful nasty horrible"), ("kind friendly polite", "cruel unkind rude"),
    ("clean neat tidy", "dirty messy filthy"), ("clever wise smart", "stupid silly foolish"),
    ("big large huge", "small little tiny"), ("fast quick rapid", "slow sluggish lazy"),
    ("hot warm boiling", "cold cool icy"), ("loud noisy booming", "quiet silent calm"),
)
SYNONYMS: dict[str, tuple[str, ...]] = {                # word: the other two of its group
    word: tuple(other for other in group.split() if other != word)
    for pair in _PAIRS for group in pair for word in group.split()
}
OPPOSITES: dict[str, str] = {
    word: other for first, second in _PAIRS for pair in ((first, second), (second, first))
    for word, other in zip(pair[0].split(), pair[1].split())
}
PRAISE = tuple(word for pair in _PAIRS[:4] for word in pair[0].split())
BLAME = tuple(word for pair in _PAIRS[:4] for word in pair[1].split())
REVIEWED = tuple("hotel room waiter garden table guide driver cook kitchen bed host shop".split())

OBJECTS = tuple("ball book cup key lamp hat bag coin map box".split())
ROOMS = tuple("kitchen garden office hall attic cellar bedroom garage".split())
PLURALS: dict[str, str] = {
    **{noun: noun + "s" for noun in (*ANIMALS, *OBJECTS)}, "mouse": "mice", "box": "boxes",
    "child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth",
    **{noun: noun + "s" for noun in "house river teacher doctor car tree door flower".split()},
}
PASTS: dict[str, str] = dict(
    pair.split() for pair in (
        "go went|see saw|eat ate|take took|give gave|run ran|sing sang|write wrote|buy bought|come came|find found|"
        "hold held|know knew|leave left|lose lost|make made|meet met|pay paid|sell sold|send sent|sit sat|sleep slept|"
        "speak spoke|stand stood|swim swam|teach taught|tell told|think thought|win won|wear wore|walk walked|"
        "play played|look looked|help helped|open opened|call called"
    ).split("|")
)

DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple(
    "January February March April May June July August September October November December".split()
)
LARGEST = 12                    # of the sums; operands run from 0
COUNTS = tuple("zero one two three four five six".split())


def later(cycle: tuple[str, ...], which: str, steps: int) -> str:
    """The day or month `steps` after (negative: before) another."""
    return cycle[(cycle.index(which) + steps) % len(cycle)]


def capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
