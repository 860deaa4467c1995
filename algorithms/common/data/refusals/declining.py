"""Which English responses decline to answer: a small grammar of not knowing,
and whether anything is asserted beside it.

A text is taken apart into sentences, a sentence into clauses at colons, commas, dashes and words such as "but". A
clause declines where it says who does not know, cannot tell or has nothing to go by, and what about; what a clause must
end in or go on with keeps "I cannot say enough good of it" apart. All others must be harmless: an apology, a reason, an
offer.
"""

import re
import unicodedata

_CONTRACTIONS = (
    (r"\bcan ?not\b|\bcan'?t\b", "can not"), (r"\bwon'?t\b", "will not"),
    (r"\b(do|did|does|is|was|were|have|has|had|could|would|should|are)n'?t\b", r"\1 not"),
    (r"\bi'?m\b", "i am"), (r"\b(i|we|you)'ve\b", r"\1 have"), (r"\b(i|we|you|he|she|they)'d\b", r"\1 would"),
    (r"\bi'll\b", "i will"), (r"\b(that|it|there|what|who)'s\b", r"\1 is"), (r"\bdunno\b", "do not know"),
    (r"\bidk\b", "i do not know"), (r"\bnoone\b", "no one"),
)
QUOTES = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "`": "'", "“": '"', "”": '"', "–": "-", "—": " - "})


def normalised(text: str) -> str:
    """Plain quotes, contractions written out, one space between words; capitals are kept."""
    text = " ".join(unicodedata.normalize("NFKC", text).translate(QUOTES).split())
    for short, long in _CONTRACTIONS:
        text = re.sub(short, long, text, flags=re.IGNORECASE)
    return text


# Words

_ASIDE = (r"(?:(?:really|truly|simply|just|only|honestly|still|actually|quite|currently|also|ever|yet|even|absolutely|"
          r"entirely|completely|definitively|reliably|possibly|at present|unfortunately) ){0,4}")
_MACHINE = r"an? (?:\w+ ){0,3}(?:ai|model|assistant|chatbot|machine|program)"
_ASKED = r"(?:where|what|who|whom|whose|when|which|whether|if|why|how(?! to))\b"
_THE = r"(?:the|that|this|these|those|such|any|his|her|its|their|your|my|our)"
_THING = r"(?:(?:the|this|that|these|those|your|such|his|her|its|their) (?:[\w'-]+ ){1,8}?|(?:that|this|it|they) )"
_MUCH = (r"(?:(?:any|enough|sufficient|adequate|reliable|personal|specific|relevant|further|more|public|known|definite|"
         r"certain|clear|good|real-time|current|direct|exact|official|the|that|this|such|an?|faintest|slightest|"
         r"foggiest|right) ){0,5}")
_KNOWLEDGE = (r"(?:idea|clue|information|knowledge|answer|data|detail|fact|record|evidence|notion|recollection|memory|"
              r"source|figure|documentation)s?\b")
_SAY = r"(?:say|tell(?: you)?|speculate|judge)"
_TELL = (r"(?:say|tell(?: you)?|answer|know|find out|determine|verify|confirm|be (?:sure|certain)|remember|recall|"
         r"establish|identify|work out|respond to|comment on|judge|speculate)")
_TELLING = (r"(?:saying|telling|answering|knowing|finding out|determining|verifying|confirming|checking|being sure|"
            r"establishing)")
_LEARNT = r"(?:told|heard|learned|learnt|read|taught|come across)"

# What a clause ends in or goes on with

_SURE = (r"(?:for (?:sure|certain)|with (?:any |absolute |complete |enough )?(?:certainty|confidence)|exactly|either|"
         r"at all)\b")
_WHENCE = r"(?:and|or|so|because|since|as (?:far|of|i|we)|yet|at|in (?:my|our)|from|based|here|right now)\b"
_IT = (r"(?:that|this|it|these|those|much|anything|enough|one|him|her|them|the answer)"
       rf"(?=$| (?:{_WHENCE}|{_SURE}|{_ASKED}|"
       r"(?:about|of|with|without|for|by|on|if|given|like|to be|unless|until|now|reliably)\b))")
_ITS = (rf"{_THE} (?:(?!(?:apart|by|between|from|in|on|to|with|without|and|or|is|are|was|has)\b)\w+ ){{0,6}}?"
        r"(?:question|answer|information|facts?|details?|name|date|year|number|truth(?! from\b))"
        rf"(?=$| (?:{_WHENCE}|{_SURE}|{_ASKED}|of\b(?!.*\b(?:too|enough)\b)|(?:about|for|to)\b|"
        r"without (?:guessing|more|further)\b|exists?\b|(?:has|have) (?:\w+ ){0,3}answer\b|"
        r"(?:is|are|was|were|has been|have been|can be|could be) (?:\w+ ){0,2}"
        r"(?:known|public|available|recorded|documented|answered|answerable|found|established)\b))")
_ABOUT_IT = rf"(?=$| (?:{_IT}|{_ITS}|{_SURE}|{_ASKED}|{_WHENCE}|about\b(?! you)|of\b|without\b))"
_OR_THE = rf"(?:{_ABOUT_IT}|(?= {_THE} \w))"     # where the object can only be what is asked for, such as the date
_TO_ANYONE = (rf"(?=$| (?:to (?:me|us|any\w+|science|historians?|scientists?)|by (?:me|us|any\w+)|anywhere|{_WHENCE}|"
              rf"{_SURE}))")
_HAVING = (rf"{_MUCH}{_KNOWLEDGE}(?=$| {_ASKED}| {_WHENCE}| (?:about|on|of|to|for|regarding|concerning|available|"
           r"needed|required|necessary|that (?:would|could|can))\b)")
_OF_SUCH = (r"(?=$| (?:of|about|on|for) (?:such|any|that|this|it|him|her|them|the (?:person|event|name))\b|"
            rf" (?:available|{_WHENCE}))")

# Who does not know

_AM_NOT = rf"am {_ASIDE}(?:not {_ASIDE}|un)"
_CAN_NOT = (r"(?:(?:can|could|will|would|may) not|"
            rf"(?:am|was|are|were) {_ASIDE}(?:not {_ASIDE}able|unable|not in a position) to) {_ASIDE}")
_SPEAKER = "|".join((    # after "I"
    rf"(?:do|did) not {_ASIDE}(?:know|remember|recall){_OR_THE}",
    r"(?:do|did) not know any(?:one|body|thing) (?:named|called|by|like|about)\b",
    r"do not recogni[sz]e (?:the|that|this|any)\b",
    rf"(?:do|did) not {_ASIDE}(?:have|possess|hold|find)(?: access to)? {_HAVING}", rf"have not(?: got)? {_HAVING}",
    rf"(?:have(?: got)?|possess|found|find|had) {_ASIDE}(?:no|not|little|insufficient) {_HAVING}", rf"lack {_HAVING}",
    rf"have {_ASIDE}no (?:way|means) (?:to {_TELL}|of {_TELLING})", r"have nothing (?:on|about)\b",
    rf"(?:would )?need {_MUCH}(?:information|context|details)\b", r"wish (?:that )?i knew\b",
    rf"{_CAN_NOT}(?:{_SAY}{_ABOUT_IT}|tell you {_THE} \w|(?!{_SAY}){_TELL}{_OR_THE}|find {_HAVING})",
    rf"{_CAN_NOT}(?:(?:give|offer|provide|share)(?: you)? (?:an|the|that|this|any)\b|(?:help|assist)(?: you)? with\b)",
    rf"{_CAN_NOT}(?:recall|remember) (?:ever )?(?:reading|hearing|learning|being told)\b",
    rf"{_AM_NOT}(?:sure|certain){_ABOUT_IT}", rf"{_AM_NOT}(?:aware of|familiar with) ",
    r"am not the right (?:one|person) to ask\b",
    rf"(?:(?:must|have to|will) )?{_ASIDE}(?:refuse|decline) to (?:answer|say|tell|guess|speculate){_ABOUT_IT}",
    r"would rather not (?:guess|say|answer|make)\b|"
    r"(?:will|would) not (?:guess|make (?:one|something|it|anything) up)\b",
    r"(?:do not (?:want|wish|like) to|should not) "
    r"(?:guess|speculate|make (?:one|something|it|anything|things) up|invent)\b",
    rf"would {_ASIDE}be (?:guessing|inventing|speculating|making (?:it|something|things|one) up)\b",
    rf"(?:have |had |was |were )?(?:never|not) (?:been )?{_LEARNT}"
    rf"(?=$| (?:that|this|it|of|about|anything|the answer)\b| {_ASKED})",
    rf"(?:do not (?:think|believe)|doubt)(?: that)? any(?:one|body) (?:{_ASIDE}knows|can (?:know|say|tell))",
))
_IS = rf"(?:is|are|was|were|remains?|has been|have been) {_ASIDE}"
_NOT_KNOWN = (r"(?:un(?:known|available|answerable|documented|recorded)|"
              rf"not {_ASIDE}(?:known|available|recorded|public|answerable))")
_MATTER = "|".join((     # of the question, the answer, what there is to go by; and set phrases
    rf"(?:no (?:idea|clue)|not (?:sure|certain)|unsure|do not know|who knows|{_CAN_NOT}{_TELL}){_ABOUT_IT}",
    rf"have not {_HAVING}",
    r"beats me\b|your guess is as good as mine|(?:that|this|it) is any(?:one|body)'s guess",
    rf"(?:unknown|not known|unanswerable){_TO_ANYONE}",
    rf"neither [\w' -]+ nor [\w' -]+ {_IS}(?:known|recorded){_TO_ANYONE}",
    rf"{_THING}{_IS}{_NOT_KNOWN}{_TO_ANYONE}",
    rf"it {_IS}(?:unclear|not {_ASIDE}clear|{_NOT_KNOWN})(?: to (?:me|us|anyone))? {_ASKED}",
    rf"{_THING}can not {_ASIDE}be (?:answered|known|determined|verified|established|confirmed|told){_TO_ANYONE}",
    rf"(?:it is )?(?:impossible|not possible|hard|difficult)(?: for (?:me|us|anyone))? to (?:{_SAY}|know){_ABOUT_IT}",
    rf"(?:it is )?(?:impossible|not possible)(?: for (?:me|us|anyone))? to (?!{_SAY}|know){_TELL}{_OR_THE}",
    rf"{_THING}{_IS}(?:beyond|outside|not part of|more than) (?:what (?:i|we) (?:know|have|can)|(?:my|our) knowledge)",
    rf"{_THING}{_IS}not (?:in|among) (?:my|our) \w+", rf"{_THING}(?:means nothing to (?:me|us)|does not ring a bell)",
    rf"{_THING}is (?:not something|nothing)(?: that)? (?:i|we) (?:{_ASIDE}know|can {_TELL})",
    rf"{_THING}{_IS}(?:not (?:enough|sufficient)|insufficient) to {_TELL}",
    r"(?:that|this|it) is more than (?:they|anyone|(?:the|any) books?)(?: ever| has| have)? "
    r"(?:told|taught) (?:me|us)\b",
    r"(?:that|this|it|(?:the|this|that|your) (?:question|book|text)) has no (?:known )?answer"
    r"(?: to (?:that|this|it))?$",
    r"(?:my|our) (?:knowledge|training|data) does not (?:cover|include|reach|extend|mention|contain)",
    rf"there is no (?:way|means) (?:for (?:me|us) )?(?:to {_TELL}|of {_TELLING})",
    r"there (?:is|are|exists?) (?:no|not|insufficient|little) "
    rf"(?:{_MUCH}(?:records?|mention|evidence|trace|sources?){_OF_SUCH}|"
    rf"(?!{_MUCH}(?:records?|evidence|sources?)\b){_HAVING})",
    rf"(?:no|not enough|insufficient) {_MUCH}{_KNOWLEDGE}(?: (?:about|on|of|to|for|regarding) [\w' -]+?)? "
    rf"(?:exists?|(?:is|are|was|were) (?:known|available|given|found|provided)|(?:can|could) be found){_TO_ANYONE}",
    r"(?:not enough|insufficient) (?:information|data|evidence|context)(?=$| (?:to|about|on|for)\b)",
    r"(?:it|that) would be (?:wrong|irresponsible|dishonest)[\w ]*? to (?:guess|speculate|answer)\b",
    r"nothing (?:that )?(?:i|we) (?:know|have (?:read|learned|learnt|heard|been told)) (?:answers|says|tells|covers)",
    rf"(?:nobody|no one) {_ASIDE}(?:knows|can (?:know|say|tell)|has (?:yet )?found out)"
    rf"(?=$| (?:that|this|it|the answer)$| {_SURE}| {_ASKED}| {_WHENCE})",
    rf"(?:nobody|no one) (?:has )?(?:ever )?told (?:me|us)(?=$| (?:that|this|about|the answer)\b| {_ASKED})",
))
_DECLINES = re.compile(rf"(?:(?:(?:that|this|it) is (?:something|one thing|a thing|a question)(?: that)? )?"
                       rf"(?:i|we) {_ASIDE}(?:{_SPEAKER})|{_MATTER})")
_COMPARED = re.compile(r"\b(?!more\b|rather\b)\w+ than\b")      # "I know of no town older than Rome" tells of Rome

# What may stand beside it

_OPENING = re.compile(
    r"(?:i am (?:(?:very|so|really|truly) )?sorry(?: to say)?|i am afraid|i (?:must|have to) (?:admit|say|confess)|"
    r"i apologi[sz]e|sorry|my apologies|unfortunately|regrettably|sadly|in truth|honestly|to be honest|frankly|"
    rf"actually|well|oh|hm+|no|yes|alas|and|so|or|then|but|because|since|as {_MACHINE})(?: (?:but|that))?(?: |$)")
_ADVERBIAL = re.compile(    # before the rest of a sentence: from what I have read, …
    r"(?:as|without|in|from|to|on|at|for|with|given|based|because|since|while|despite|if|when|after|before|until|"
    r"unless)\b")
_REASON = re.compile("|".join((     # for not knowing: what the speaker is or lacks, what was not told or written
    rf"i am {_ASIDE}{_MACHINE}\b", r"(?:my|our) (?:training|knowledge|data|memory|information)\b",
    r"(?:i|we) (?:\w+ )?(?:not|never|no|only|just)\b",
    r".*\b(?:not|never|nobody|no one|nothing) (?:\w+ )?(?:tell|told|said|says?|mention(?:s|ed)?|written|recorded)\b",
    r"as of (?:my (?:last|latest|knowledge|training) (?:\w+ ){0,3})?(?:\w+ )?\w+$",
)))
_COURTESY = re.compile("|".join((   # apologises, thanks, thinks, or offers help
    r"(?:about|for) (?:that|this|it|(?:any|the) \w+)$", r"thank(?:s| you)\b|let me (?:think|see|know)\b",
    r"(?:(?:that|this|it) is )?(?:an? )?(?:\w+ ){1,2}(?:question|one)$", r"(?:please|feel free)\b",
    r"if you (?:have|give|tell|can|could|need|would|want|like|share)\b",
    r"(?:(?:perhaps|maybe) )?you (?:can|could|may|might|should|would have to|will have to|have to|"
    r"had better) (?:try to )?(?:ask|check|look|search|find out|consult)\b",
    r"(?:ask(?! for)|check|consult|contact|try (?:asking|looking|checking|searching))\b",
    r"(?:is|are) there (?:any|some)thing\b|(?:can|could|would|do|may) (?:you|i)\b|how (?:else )?(?:can|may) i\b",
    r"i (?:can|could|will|would) (?:be (?:happy|glad) to )?(?:help|try|suggest|recommend)\b",
    r"i (?:wish|would (?:like|love|be (?:glad|happy)))\b",
    r"(?:it|that|this) would be (?:wrong|irresponsible|a guess|guessing)\b",
    r"(?:my|your|an?|some|the) \w+(?: \w+)? (?:may|might|could|will|would|should)"
    r"(?: (?:know|be able to \w+|tell(?: you)?|help))?$",
    r"(?:some|any)(?:one|body) (?:else )?(?:may|might|could|will|would|should)\b",
)))
_GUESS = re.compile(    # an answer is ventured all the same
    r"\b(?:maybe|perhaps|probably|possibly|most likely|my (?:best )?guess|(?:i|we) (?:think|believe|guess|suppose) "
    r"(?:it|he|she|they|that|the)\b|(?:i|we) would (?:say|guess)\b)")
_STATED = re.compile(   # after a comma: an answer
    r"(?:(?:he|she|they|it|that|this|there) |(?:the|his|her|its|their) (?:\w+ ){1,4}?)"
    r"(?:is|was|are|were|has|had|lives?|lived|must)\b|(?!.*\byou\b)(?:[\w'-]+ ?){1,3}\?$|"
    r".*(?:\d|\b(?:zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|"
    r"hundreds?|thousands?|millions?|billions?|dozens?)\b)")
_NO_MORE = re.compile(rf"(?: (?:that|this|it|the answer|{_SURE}))*")
# after no more than "I do not know": after "the mayor of Springfield" a name belongs to the question
_NAME = re.compile(
    r"(?!(?:Sir|Madam|Ma'am|Mr|Mrs|Ms|Dr)\b)[A-Z][\w'-]*[a-z](?: (?:(?:of|the|de) )?[A-Z][\w'-]*[a-z]){0,2}")

_QUOTED = re.compile(r"[\"'(]([^\"]*)[\"')][.!?]?")
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"']? +")
_ENDS = " .!?\"')("
_CLAUSE_END = re.compile(   # not within 1,000 or 10:30, nor in "July 4, 1776"
    r"(,(?!\d|(?<=\d,) \d{4}\b)|:(?!\d)|;| -|\b(?:but|though|although|however)\b) *", re.IGNORECASE)


def is_refusal(text: str) -> bool:
    """Whether an English response declines to answer and gives no answer beside it.

    Said by the speaker or of the matter ("I do not know", "nobody knows", "the date is not known"), not told of others
    ("she does not know Rome") nor quoted. "I am not sure, but I think it is Rome", "I do not know. It is Rome." and
    "I do not know, about two million" are answers.
    """
    text = normalised(text)
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1]
    verdicts = [_declines(sentence) for sentence in _SENTENCE_END.split(text)]
    return None not in verdicts and any(verdicts)


def _declines(sentence: str) -> bool | None:
    """Whether a clause of the sentence declines; None where another asserts something."""
    clauses = _clauses(sentence)
    declined, venture = False, ""  # venture: what a guess may stand in
    for place, (mark, clause) in enumerate(clauses):
        name_alone = _NO_MORE.fullmatch(venture) and _NAME.fullmatch(clause.rstrip(_ENDS))
        answers = declined and (name_alone or _STATED.match(clause.lower()))
        refusal, plain = _opened(clause.lower().rstrip(_ENDS))
        leads_on = place + 1 < len(clauses) and _ADVERBIAL.match(plain)
        if refusal and not _COMPARED.search(plain):
            declined, venture = True, plain[refusal.end():]
        elif not plain or _COURTESY.match(plain):
            continue
        elif _REASON.match(plain) or not answers and (declined and mark == "," or leads_on):
            venture = plain
        else:
            return None
        if _GUESS.search(venture):
            return None
    return declined


def _clauses(sentence: str) -> list[tuple[str, str]]:
    """Clauses with the mark or word before each; none is empty."""
    parts = ["", *_CLAUSE_END.split(sentence)]
    return [(mark, clause.strip()) for mark, clause in zip(parts[::2], parts[1::2]) if clause.strip(_ENDS)]


def _opened(clause: str) -> tuple[re.Match | None, str]:
    """A clause without the words it opens with, up to where it declines, and the match there."""
    while not (refusal := _DECLINES.match(clause)) and (opening := _OPENING.match(clause)):
        clause = clause[opening.end():]
    return refusal, clause
