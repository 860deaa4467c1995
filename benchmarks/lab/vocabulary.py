"""The words of the reviews lab: eight domains, their aspects and events, graded adjectives, modifiers and closings.

Every score is a sentiment on one scale, from about -2.7 (extremely awful) to 2.7 (extremely superb); none is zero, so
that every clause is either praise or blame.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """What is reviewed: how a review of it opens, what it has (each with "was" or "were") and what may happen there."""

    noun: str
    verbs: tuple[str, ...]          # of the opening sentence
    singular: tuple[str, ...]       # aspects that take "was"
    plural: tuple[str, ...]         # aspects that take "were"
    events: dict[str, float]        # whole clauses and their scores

    @property
    def aspects(self) -> tuple[str, ...]:
        return self.singular + self.plural


def _domain(noun: str, verbs: str, singular: str, plural: str, events: dict[str, float]) -> Domain:
    return Domain(noun, tuple(verbs.split("|")), tuple(singular.split()), tuple(plural.split()), events)


DOMAINS: dict[str, Domain] = {
    domain.noun: domain
    for domain in (
        _domain(
            "restaurant", "We ate at|I visited|We tried|I booked",
            "food service soup bread menu wine dessert kitchen price mood",
            "waiters tables dishes portions sauces drinks",
            {
                "the chef came to greet us": 1.4, "we got a free dessert": 1.6,
                "the waiter knew every dish": 1.2, "we stayed until midnight": 0.9,
                "the waiter forgot our order": -1.4, "we waited for an hour": -1.2,
                "the bill was wrong": -1.0, "I found a hair on my plate": -1.7,
            },
        ),
        _domain(
            "film", "We watched|I saw|We chose|I rented",
            "plot acting music script ending pace lighting story sound humour",
            "actors scenes jokes songs effects costumes",
            {
                "I laughed until I cried": 1.6, "the hall clapped at the end": 1.4,
                "we talked about it for days": 1.2, "the hero won my heart": 1.0,
                "I fell asleep": -1.4, "half of the hall left": -1.6,
                "we guessed the end at once": -1.0, "I lost track of the story": -1.2,
            },
        ),
        _domain(
            "hotel", "We stayed at|I booked|We chose|I visited",
            "bed room breakfast lobby pool view shower location service price",
            "towels rooms beds halls lifts pillows",
            {
                "we got a bigger room for free": 1.6, "the maid left us flowers": 1.2,
                "the clerk found us a taxi": 1.0, "we slept like babies": 1.4,
                "the heating broke at night": -1.4, "the clerk lost our booking": -1.2,
                "I saw a rat in the hall": -1.7, "the walls let every noise in": -1.0,
            },
        ),
        _domain(
            "phone", "I bought|We tried|I tested|We ordered",
            "screen battery camera case charger design price memory speaker signal",
            "photos buttons apps calls colours videos",
            {
                "it ran for three days": 1.4, "it fell and did not break": 1.6,
                "my old files moved over at once": 1.0, "it found a signal in the woods": 1.2,
                "it died after a week": -1.6, "it got hot in my hand": -1.2,
                "the glass broke on the first day": -1.4, "it lost my contacts": -1.0,
            },
        ),
        _domain(
            "book", "I read|We read|I finished|We discussed",
            "plot style story ending prose cover pace tone opening language",
            "chapters heroes pages ideas notes drawings",
            {
                "I could not put it down": 1.6, "I cried at the end": 1.2,
                "I gave a copy to a friend": 1.4, "it taught me a lot": 1.0,
                "I gave up half way": -1.6, "two pages were missing": -1.0,
                "I skipped the middle part": -1.2, "it put me to sleep": -1.4,
            },
        ),
        _domain(
            "concert", "We attended|I attended|We heard|I saw",
            "sound band singer stage crowd light music hall show tempo",
            "songs seats drums guitars tickets solos",
            {
                "the crowd sang every word": 1.4, "they played for three hours": 1.2,
                "we danced all night": 1.6, "the singer waved at us": 1.0,
                "they stopped after half an hour": -1.4, "the speakers failed twice": -1.2,
                "the singer forgot the words": -1.0, "we left before the end": -1.6,
            },
        ),
        _domain(
            "laptop", "I bought|We ordered|I tested|We used",
            "screen keyboard battery fan speed case design charger price lid",
            "keys speakers ports games hinges colours",
            {
                "it starts in a second": 1.2, "it never slows down": 1.4,
                "it lasts for a whole flight": 1.6, "it fits in my bag": 0.9,
                "it crashed on the first day": -1.6, "a key fell off": -1.2,
                "the fan never stops": -1.0, "it ate all of my files": -1.7,
            },
        ),
        _domain(
            "museum", "We visited|I visited|We toured|I toured",
            "collection building guide garden cafe tour shop map exhibition entrance",
            "paintings rooms statues halls signs guards",
            {
                "our children loved every room": 1.4, "a guide showed us around": 1.0,
                "we stayed until it closed": 1.2, "we got in for free": 1.6,
                "half of it was closed": -1.4, "we got lost twice": -1.0,
                "a guard shouted at us": -1.6, "we stood in line for an hour": -1.2,
            },
        ),
    )
}

_ADJECTIVES = {
    2.0: "superb magnificent outstanding perfect", -2.0: "awful horrible terrible dreadful",
    1.7: "excellent wonderful brilliant fantastic", -1.7: "appalling disgraceful disgusting hideous",
    1.4: "great delightful lovely impressive", -1.4: "bad shabby nasty miserable",
    1.1: "good charming pleasing solid", -1.1: "poor dull weak sloppy",
    0.7: "nice decent pleasant likeable", -0.7: "bland clumsy tired lacking",
    0.3: "fine acceptable adequate passable", -0.3: "plain ordinary mediocre forgettable",
}
ADJECTIVES: dict[str, float] = {word: score for score, words in _ADJECTIVES.items() for word in words.split()}

INTENSIFIERS: dict[str, float] = {
    "slightly": 0.5, "somewhat": 0.65, "fairly": 0.8, "quite": 0.9, "really": 1.1, "very": 1.2, "extremely": 1.35,
}
NEGATORS: dict[str, float] = {"not": -0.6, "never": -0.7, "hardly": -0.5}
MODIFIERS: dict[str, float] = {**INTENSIFIERS, **NEGATORS}      # factor on the adjective's score

CLOSINGS: dict[str, float] = {
    "I loved every minute.": 2.0, "Highly recommended.": 1.7, "Worth every penny.": 1.4, "A happy surprise.": 1.1,
    "No regrets.": 0.7,
    "A mixed bag.": -0.3, "Not for me.": -0.8, "Never again.": -1.4, "A waste of money.": -1.7,
    "I want my money back.": -2.0,
}

AGREEING = ("and", "while")                 # join two clauses of the same sign: "x and y"
OPPOSING = ("but", "yet", "although")       # join two clauses of opposite signs: "x, but y"

FIRST_NAMES = tuple(
    "Golden Silver Blue Red Green Royal Little Grand Old New "
    "Quiet Happy Lucky Hidden Wild Bright Northern Western Crystal Iron".split()
)
LAST_NAMES = tuple(
    "Lantern Harbor Garden Bridge River Mountain Star Moon Lion Eagle "
    "Rose Oak Castle Valley Forest Island Tower Mirror Arrow Crown".split()
)
_WHEN = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday spring summer winter".split()
TIMES = tuple(f"{which} {when}" for which in ("last", "one") for when in _WHEN)
_PEOPLE = "sister brother mother father wife husband friends boss neighbour cousin daughter son".split()
COMPANIONS = tuple(f"with my {person}" for person in _PEOPLE)
