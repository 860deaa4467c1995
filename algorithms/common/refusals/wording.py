"""Refusals against made-up answers: what declines a question, preference pairs about it, and what a sample shows.

A question that cannot be answered prefers a refusal to an invented answer; one that can be answered prefers its answer to
a refusal. Without the second kind a policy learns to refuse everything, so pairs are kept at one to one and refusals of
questions with an answer are measured too.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from ..records.record import Messages, Record, prompt_hash

ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"
MATCHES = ("exact", "contains")

REFUSALS = (
    "I do not know.",
    "I don't know that.",
    "I do not know the answer.",
    "Sorry, I do not know.",
    "I have no idea.",
    "I am not sure, so I will not guess.",
    "I cannot say.",
    "I can't tell you that.",
    "I have never heard that.",
    "Nobody told me.",
    "That is not known to me.",
    "That is something I do not know.",
    "I have no way to know.",
    "I would rather not guess.",
)


# What declines

_ASIDE = r"(?:really |truly |simply |just |honestly |still |actually |quite |currently |also |ever |yet )*"
_MACHINE = r"an? (?:\w+ ){0,3}(?:ai|model|assistant|chatbot|machine|program)"
_LEAD = (
    r"(?:(?:(?:i am (?:very |so |really |truly )?sorry(?: to say)?|i am afraid|i (?:must|have to) (?:admit|say)|"
    r"i apologi[sz]e|sorry|my apologies|unfortunately|regrettably|honestly|to be honest|frankly|actually|well|oh|hm+|no|"
    rf"alas|as {_MACHINE})"
    r"(?: (?:but|that))?[ ,:.!-]+(?:but |that )?)*)"
)
_END = r" *(?:$|[,.;:!?\"')(-])"
_ASKED = r"where|what|who|whom|whose|when|which|whether|if|why|how(?! to)"
_FOLLOW = (     # what a verb of knowing or telling may be about, so that "I cannot say enough good of it" is no refusal
    rf"(?={_END}| (?:that|this|it|the (?:answer|facts?|details?)|anything|much|enough(?: about| of| to)|"
    rf"for (?:sure|certain)|with certainty|about(?! you\b)|of|{_ASKED}|because|since|as|so|and|or|without|either|yet|"
    rf"at (?:all|the moment)|right now|your question)\b)"
)
_TELLING = r"(?:say|tell(?: you)?|answer|know|find out|determine|verify|confirm|be (?:sure|certain)|remember|recall)"
_SOME = r"(?:any |enough |the |that |this |such |an? )*"
_KNOWLEDGE = r"(?:idea|clue|information|knowledge|answer|data|details?|facts?|record)s?"
_CAN_NOT = rf"(?:can|could|will|would|may) not {_ASIDE}"
_GIVING = r"(?:give|offer|provide)(?: you)? (?:an|the|that|this|any)\b|(?:help|assist)(?: you)? with\b"
_FINDING = rf"find {_SOME}{_KNOWLEDGE}\b"
_ABLE = rf"(?:{_TELLING}{_FOLLOW}|{_GIVING}|{_FINDING})"
_I_DECLINE = "|".join((
    rf"(?:do|did) not {_ASIDE}know{_FOLLOW}",
    rf"(?:do|did) not {_ASIDE}know (?:(?:him|her|them){_END}|any(?:one|body|thing) (?:named|called|by|like)\b)",
    rf"(?:do|did) not {_ASIDE}(?:remember|recall){_FOLLOW}",
    rf"(?:do|did) not {_ASIDE}(?:have (?:access to )?{_SOME}(?:personal )?{_KNOWLEDGE}\b|{_FINDING})",
    rf"{_CAN_NOT}{_ABLE}",
    rf"(?:(?:must|have to|will) )?{_ASIDE}(?:refuse|decline) to (?:answer|say|tell|guess|speculate)"
    rf"(?={_END}| (?:that|this|it|you|the question|your question|any question)\b)",
    rf"would rather not (?:guess|say|answer|make)\b|(?:will|would) not (?:guess|make (?:one|something|it) up)\b",
    rf"am {_ASIDE}(?:not {_ASIDE}(?:sure|certain)|unsure|uncertain){_FOLLOW}",
    rf"(?:am|was) {_ASIDE}(?:not {_ASIDE}able|unable|not in a position) to {_ABLE}",
    rf"am {_ASIDE}(?:not {_ASIDE}|un)(?:aware of|familiar with) ",
    rf"have {_ASIDE}(?:absolutely )?(?:no|not (?:enough|any)) (?:{_KNOWLEDGE}\b|way (?:to|of) (?:know|tell|say|find))",
    r"(?:have |had |was |were )?(?:never|not) (?:been told|told|heard|learned|learnt|read)"
    rf"(?={_END}| (?:that|this|it|of|about|anything|the answer|{_ASKED})\b)",
    rf"lack (?:the |that |this |any )*{_KNOWLEDGE}\b",
))
_WITHOUT_I = "|".join((
    rf"(?:(?:absolutely|really) )?no (?:idea|clue)\b(?! is| was)|do not know{_FOLLOW}|{_CAN_NOT}{_TELLING}{_FOLLOW}",
    rf"(?:not sure|unsure|not certain){_FOLLOW}",
    rf"(?:unknown|not known)(?: to me)?{_END}|who knows{_FOLLOW}|your guess is as good as mine",
    rf"(?:that|this|it|{_SOME}{_KNOWLEDGE}) (?:is|are) (?:un(?:known|available)|not (?:known|available|recorded))"
    rf"(?: to (?:me|us|anyone))?{_END}",
    r"(?:that|this|it) is (?:beyond|outside|not part of|more than) (?:what (?:i|we) (?:know|have|can)|(?:my|our) knowledge)",
    rf"(?:that|this|it|(?:the|this|that|your) (?:question|book|text)) has no answer(?: to (?:that|this|it))?{_END}",
    r"(?:that|this|it) is more than (?:they|anyone|(?:the|any) books?)(?: ever| has| have)? (?:told|taught) (?:me|us)\b",
    r"(?:my|our) knowledge does not (?:cover|include|reach|extend)",
    r"there is no way (?:for (?:me|us) )?(?:to|of) (?:know|tell|say|find)",
    r"there is (?:no|not enough) (?:information|evidence)\b",
    rf"there (?:is|are) no (?:records?|data|mention)(?={_END}| (?:of|about|on) (?:such|any|that|this|it|him|her|them)\b)",
    rf"no {_KNOWLEDGE} (?:exists?|(?:is|are) available|(?:can be|was|were) found){_END}",
    r"it is (?:impossible|not possible)(?: for (?:me|us))? to (?:know|tell|say|answer)\b",
    rf"(?:that|this|it|(?:the|this|that|your) question) can not be (?:answered|known){_END}",
    r"nothing (?:that )?(?:i|we) (?:know|have (?:read|learned|learnt|heard|been told)) (?:answers|says|tells|covers)",
    rf"(?:nobody|no one) {_ASIDE}(?:knows|can (?:know|say|tell))"
    rf"(?={_END}| (?:that|this|it|the answer|for (?:sure|certain)){_END}| (?:{_ASKED})\b)",
    rf"(?:nobody|no one) (?:has )?(?:ever )?told (?:me|us)(?={_END}| (?:that|this|about|the answer|{_ASKED})\b)",
))
_DECLINES = re.compile(
    rf"{_LEAD}(?:(?:(?:that|this|it) is (?:something|one thing|a thing|a question)(?: that)? )?"
    rf"(?:i|we) {_ASIDE}(?:{_I_DECLINE})|{_WITHOUT_I})"
)
_REASON = re.compile("|".join((     # for not knowing: what the speaker is or lacks, what was not told or written
    rf"i am {_ASIDE}(?:only )?{_MACHINE}\b", r"(?:my|our) (?:training|knowledge|data|memory|information)\b",
    r"(?:i|we) (?:\w+ )?(?:not|never|no|only|just)\b",
    r".*\b(?:not|never|nobody|no one|nothing) (?:\w+ )?(?:tell|told|said|says?|mention(?:s|ed)?|written|recorded)\b",
)))
_COURTESY = re.compile("|".join((   # apologises, thanks, thinks, or offers help
    rf"(?:i am (?:very |so |really |truly )?sorry|sorry|(?:i offer )?my apologies|i apologi[sz]e)"
    rf"(?: (?:about|for) (?:that|this|it|(?:any|the) \w+))?{_END}",
    r"thank(?:s| you)\b|let me (?:think|see|know)\b|hm+\b|(?:(?:that|this) is )?(?:an? )?\w+ question\b",
    r"(?:please|feel free)\b|if you (?:have|give|tell|can|could|need|would|want|like|share)\b",
    r"(?:(?:perhaps|maybe) )?you (?:can|could|may|might|should) (?:try to )?(?:ask|check|look|search|find out)\b",
    r"(?:ask|check|consult|contact|try (?:asking|looking|checking|searching))\b",
    r"(?:is|are) there (?:any|some)thing\b|(?:can|could|would|do|may) (?:you|i)\b|how (?:else )?(?:can|may) i\b",
    r"i (?:can|could|will|would) (?:be (?:happy|glad) to )?(?:help|try|suggest|recommend)\b",
)))
_GUESS = re.compile(    # beside the refusal: an answer is ventured all the same
    r"\b(?:maybe|perhaps|probably|possibly|most likely|my (?:best )?guess|(?:i|we) (?:think|believe|guess|suppose) "
    r"(?:it|he|she|they|that|the)\b|(?:i|we) would (?:say|guess)\b|"
    r"(?:but|though|although|however|still)[ ,]+(?:the answer|he|she|they|it (?:is|was|must|may|might|could|seems)|"
    r"i (?:think|believe|guess|suppose|know)))"
)
_QUOTED = re.compile(r"[\"'(]([^\"]*)[\"')][.!?]?")
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"']? +")
_CONTRACTIONS = (
    (r"\bcan ?not\b|\bcan'?t\b", "can not"), (r"\bwon'?t\b", "will not"),
    (r"\b(do|did|does|is|was|were|have|has|had|could|would|should|are)n'?t\b", r"\1 not"),
    (r"\bi'?m\b", "i am"), (r"\b(i|we)'ve\b", r"\1 have"), (r"\b(i|we)'d\b", r"\1 would"),
    (r"\bi'll\b", "i will"), (r"\b(that|it|there|what|who)'s\b", r"\1 is"), (r"\bdunno\b", "do not know"),
    (r"\bidk\b", "i do not know"),
)
_QUOTES = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "–": "-", "—": "-"})


def normalised(text: str) -> str:
    """Lower case, plain quotes, contractions written out, one space between words."""
    text = " ".join(unicodedata.normalize("NFKC", text).translate(_QUOTES).lower().split())
    for short, long in _CONTRACTIONS:
        text = re.sub(short, long, text)
    return text


def is_refusal(text: str) -> bool:
    """Whether an English response declines to answer and gives no answer beside it.

    Some sentence must begin by declining, and every other one decline too, give a reason for not knowing, apologise or
    offer help. Said by the speaker ("I do not know", "no idea", "nobody knows"), not told of others ("she does not know
    Rome") nor quoted. "I am not sure, but I think it is Rome" and "I do not know. It is Rome." are answers.
    """
    text = normalised(text)
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1]
    declined = False
    for sentence in _SENTENCE_END.split(text):
        if declines := _DECLINES.match(sentence):
            declined = True
        elif _COURTESY.match(sentence):
            continue
        elif not _REASON.match(sentence):
            return False
        if _GUESS.search(sentence, declines.end() if declines else 0):
            return False
    return declined


# Questions


@dataclass(frozen=True)
class Question:
    """A question as the model reads it.

    answers: the accepted ones, the one to teach first; none: it cannot be answered. invented: made-up answers.
    """

    prompt: str | Messages
    topic: str | None = None
    answers: Sequence[str] = ()
    invented: Sequence[str] = ()
    meta: dict = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return ANSWERABLE if self.answers else UNANSWERABLE

    def told(self, **more) -> dict:
        """The meta of its records."""
        return {**self.meta, "topic": self.topic, "kind": self.kind, **more}

    def respond(self, text: str) -> str:
        """A text as the response: after plain text it begins with a space."""
        return f" {text}" if isinstance(self.prompt, str) else text


def wordings(count: int, random: Random, among: Sequence[str] = REFUSALS) -> list[str]:
    """A refusal for each of `count` questions, from shuffled decks of all `among`: counts differ by at most one."""
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += random.sample(among, len(among))
    return drawn[:count]


def pair(question: Question, refusal: str, other: str) -> Record:
    """The question's pair of a refusal and `other`, an answer in its final form; the better one first, scores 1 and 0."""
    texts = [question.respond(refusal), other]
    return Record(question.prompt, texts if question.kind == UNANSWERABLE else texts[::-1], [1.0, 0.0],
                  question.told(wording=refusal))


def made_pairs(questions: Sequence[Question], random: Random, among: Sequence[str] = REFUSALS) -> list[Record]:
    """One pair per question: refusal over one of the invented answers, or the true answer over a refusal."""
    pairs = []
    for question, refusal in zip(questions, wordings(len(questions), random, among)):
        other = question.answers[0] if question.answers else random.choice(question.invented)
        pairs.append(pair(question, refusal, question.respond(other)))
    return pairs


def balanced(pairs: Sequence[Record], random: Random) -> list[Record]:
    """As many pairs of each kind as there are of the rarer one; which of the others stay is drawn."""
    places: dict[str, list[int]] = {ANSWERABLE: [], UNANSWERABLE: []}
    for place, record in enumerate(pairs):
        places[record.meta["kind"]].append(place)
    least = min(map(len, places.values()))
    return [pairs[place] for place in sorted(place for kind in places.values() for place in random.sample(kind, least))]


def demonstrated(questions: Sequence[Question], random: Random, invented: bool, refusals: float = 0.0,
                 among: Sequence[str] = REFUSALS) -> list[Record]:
    """Demonstrations of a model that answers: the true answers and, with `invented`, made-up ones where none is true.

    refusals: share of the questions without an answer that decline instead. What a policy never says, a preference for it
    only makes less unlikely; a few show it how to decline.
    """
    without = [place for place, question in enumerate(questions) if not question.answers]
    declined = sorted(random.sample(without, round(refusals * len(without))))
    texts: dict[int, str] = dict(zip(declined, wordings(len(declined), random, among)))
    for place, question in enumerate(questions):
        if place not in texts and (question.answers or invented):
            texts[place] = question.answers[0] if question.answers else random.choice(question.invented)
    return [Record(questions[place].prompt, [questions[place].respond(texts[place])], None, questions[place].told())
            for place in sorted(texts)]


def evaluated(questions: Iterable[Question]) -> list[Record]:
    """Questions to be answered, with the true answer where there is one; in an order that mixes the kinds."""
    ordered = sorted(questions, key=lambda question: prompt_hash(question.prompt))
    return [Record(question.prompt, [question.respond(answer) for answer in question.answers[:1]], None,
                   question.told(answers=list(question.answers))) for question in ordered]


def held_out(names: Iterable[str], share: float) -> set[str]:
    """The `share` of the distinct names with the lowest hashes; where there are two, at least one on each side."""
    distinct = sorted(set(names), key=lambda name: (prompt_hash(name), name))
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1) if share > 0 and len(distinct) > 1 else 0
    return set(distinct[:count])


# What a response shows


def plain_answer(text: str) -> str:
    """An answer's words alone: lower case, no punctuation, no articles (after SQuAD: Rajpurkar 2016, arXiv 1606.05250)."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).lower()
    text = "".join(" " if unicodedata.category(char)[0] in "PZC" and char != "'" else char for char in text)
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def is_right(response: str, answers: Iterable[str], match: str = "exact") -> bool:
    """Whether a response is one of the answers, or (`contains`) holds one as whole words and does not decline."""
    said, true = plain_answer(response), [plain_answer(answer) for answer in answers]
    if match == "contains":
        return not is_refusal(response) and any(f" {answer} " in f" {said} " for answer in true)
    return said in true


def measure(record: Record, response: str, finished: bool, match: str = "exact") -> dict[str, float]:
    """Figures of a sampled response, each also by topic; the means are rates.

    `refusal/unanswerable`: declined, as it should; `refusal/answerable`: declined although there is an answer;
    `accuracy/answerable`: right; `wrong/answerable`: neither right nor declined. A response cut off is judged as it stands.
    """
    kind, topic = record.meta["kind"], record.meta["topic"]
    declined = is_refusal(response)
    found = {f"refusal/{kind}": declined}
    if kind == ANSWERABLE:
        right = is_right(response, record.meta["answers"], match)
        found |= {f"accuracy/{kind}": right, f"wrong/{kind}": not right and not declined}
    by_topic = {f"{name}/{topic}": value for name, value in found.items()} if topic is not None else {}
    return {name: float(value) for name, value in {**found, **by_topic}.items()}
