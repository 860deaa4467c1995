"""Worked reasoning of the tasks lab: questions whose answer follows in a few recalled steps, and the steps.

Each kind has cases ("Anna"; "Monday" and 3; 2, 4 and 1). Half of a kind's cases are *worked* in the pretraining corpus;
the conclusions of the others occur nowhere in it, and only those become rows of the kind's task. The facts that the
steps recall are in the corpus for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from benchmarks.lab import world
from benchmarks.lab.world import ANIMALS, CITIES, COUNTS, DAYS, JOBS, LARGEST, MONTHS, PEOPLE

STEPS = range(2, 6)             # how many days, months or numbers later
NUMBERS = tuple(str(n) for n in range(46))


@dataclass(frozen=True)
class Chain:
    """One case: the question as the corpus puts it, the steps, the answer, and the named parts of the question."""

    asked: str
    steps: str
    answer: str
    parts: dict[str, str]

    @property
    def text(self) -> str:
        """The document of the corpus."""
        return f"{self.asked} Let us think step by step. {self.steps} So the answer is {self.answer}."


@dataclass(frozen=True)
class Kind:
    """A kind of worked reasoning: its cases, what a case is worked out to, and what its answers are drawn from."""

    cases: tuple
    work: Callable[..., Chain]
    candidates: tuple[str, ...]


def worked(name: str) -> tuple[list[Chain], list[Chain]]:
    """The chains of a kind that the corpus works out, and those it never does; a fixed half each."""
    kind = KINDS[name]
    chains = [kind.work(*case) for case in kind.cases]
    Random(f"preference zoo/chains/{name}").shuffle(chains)
    return chains[:len(chains) // 2], chains[len(chains) // 2:]


def _of_pet(asked: str, step: str, attribute: str) -> Callable[[str], Chain]:
    def work(person: str) -> Chain:
        pet = PEOPLE[person].pet
        answer = getattr(ANIMALS[pet], attribute)
        steps = f"{world.statement('pet', person)} {step.format(pet=pet, answer=answer)}"
        return Chain(asked.format(person=person), steps, answer, {"person": person})

    return work


def _country(person: str) -> Chain:
    city = PEOPLE[person].city
    steps = f"{world.statement('city', person)} {city} is in {CITIES[city]}."
    return Chain(f"In which country does {person} live?", steps, CITIES[city], {"person": person})


def _workplace(person: str) -> Chain:
    job = PEOPLE[person].job
    steps = f"{world.statement('job', person)} A {job} works at the {JOBS[job]}."
    return Chain(f"At which place does {person} work?", steps, JOBS[job], {"person": person})


def _later(unit: str, cycle: tuple[str, ...]) -> Callable[[str, int], Chain]:
    def work(start: str, count: int) -> Chain:
        stops = [world.later(cycle, start, k) for k in range(1, count + 1)]
        told = [f"{COUNTS[k]} {unit}{'s' * (k > 1)} later is {stop}" for k, stop in enumerate(stops, 1)]
        asked = f"Which {unit} comes {COUNTS[count]} {unit}s after {start}?"
        steps = world.capitalised(", ".join(told)) + "."
        return Chain(asked, steps, stops[-1], {"start": start, "count": COUNTS[count]})

    return work


def _sum(a: int, b: int, c: int) -> Chain:
    steps = f"{a} plus {b} is {a + b}. {a + b} plus {c} is {a + b + c}."
    return Chain(f"What is {a} plus {b} plus {c}?", steps, str(a + b + c), {"a": str(a), "b": str(b), "c": str(c)})


_EVERYBODY = tuple((person,) for person in PEOPLE)
_TRIPLES = tuple(
    (a, b, c) for a in range(1, LARGEST) for b in range(1, LARGEST - a) for c in range(1, LARGEST - a - b + 1)
)
KINDS: dict[str, Kind] = {
    "pet_class": Kind(
        _EVERYBODY, _of_pet("What kind of animal does {person} keep?", "The {pet} is a kind of {answer}.", "kind"),
        world.KINDS,
    ),
    "pet_home": Kind(
        _EVERYBODY,
        _of_pet("Where would the pet of {person} live in the wild?", "The {pet} lives in the {answer}.", "home"),
        world.HOMES,
    ),
    "pet_colour": Kind(
        _EVERYBODY, _of_pet("What is the colour of the pet of {person}?", "The {pet} is {answer}.", "colour"),
        world.COLOURS,
    ),
    "workplace": Kind(_EVERYBODY, _workplace, tuple(JOBS.values())),
    "country": Kind(_EVERYBODY, _country, tuple(dict.fromkeys(CITIES.values()))),
    "days": Kind(tuple((day, k) for day in DAYS for k in STEPS), _later("day", DAYS), DAYS),
    "months": Kind(tuple((month, k) for month in MONTHS for k in STEPS), _later("month", MONTHS), MONTHS),
    "numbers": Kind(
        tuple((start, k) for start in NUMBERS[:-max(STEPS)] for k in STEPS), _later("number", NUMBERS), NUMBERS
    ),
    "sum3": Kind(_TRIPLES, _sum, tuple(str(n) for n in range(3, LARGEST + 1))),
}
