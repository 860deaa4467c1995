"""How a language model is asked which of two answers is better, and how what it says is read.

A wording that was used is never changed: verdicts name it. A better one is a version of its own.
"""

from __future__ import annotations

import re

QUESTIONS = {"v1": """Someone wrote the text below, and two replies to it were written, called A and B. Say which \
reply serves that person better. What counts is whether a reply does what the text asks for, whether what it says is \
right, and whether it is clear. That a reply is longer, or stands first, counts for nothing.

=== The text
{prompt}

=== Reply A
{first}

=== Reply B
{second}

=== End of reply B

Which reply is better? Write one letter, A or B, and nothing else."""}
TIE = " If neither is better than the other, write TIE."
AGAIN = "I cannot read a verdict from that. Write A, B or TIE, and nothing else."

_WORD = r"(?P<word>A|B|(?i:TIE))"                     # in capitals: "a" is an article
_REPLY = r"(?i:(?:reply|response|answer)\s+)?"
_LEADS = r"(?i:(?:the|my)\s+)?(?i:(?:better|best|final)\s+)?(?i:answer|verdict|choice|reply|response|winner)"
_GOOD = r"(?i:better|best|correct|right|preferred|preferable|superior|winner)"
_FORMS = [re.compile(form, re.DOTALL) for form in (
    rf"\W*{_WORD}\W*",                                                      # A   **B**   (A).
    rf"\W*{_WORD}\W+(?P=word)\W*",                                          # A: A
    rf"\W*{_REPLY}{_WORD}\W+(?i:because|since)\b.*",                        # A, because …
    rf"\W*{_REPLY}{_WORD}\s+(?i:wins|is(?:\s+(?:the|clearly|slightly|much))*\s+{_GOOD})\b.*",    # A is the correct …
    rf"\W*{_LEADS}(?:\s+is\b\s*:?|\s*[:=-])\W*{_REPLY}{_WORD}\W*",        # The answer is A.
)]
_ENDS = re.compile(r"\b(?:A|B|(?i:TIE))[ \t*_'\"`]*\Z")
_LETTER = re.compile(r"\b[AB]\b")
_NEGATED = re.compile(r"\b(?:not|neither|nor|cannot|or|worse|wrong)\b|n['’]t\b", re.IGNORECASE)


def question(version: str, prompt: str, first: str, second: str, tie: bool) -> str:
    """The whole text that is asked. tie: whether it may be the answer."""
    asked = QUESTIONS[version].replace("{prompt}", "\0p").replace("{first}", "\0f").replace("{second}", "\0s")
    parts = re.split("(\0[pfs])", asked)  # not one after the other: an answer may hold {second}
    texts = {"\0p": prompt, "\0f": first, "\0s": second}
    return "".join(texts.get(part, part) for part in parts) + (TIE if tie else "")


def verdict_of(reply: str, cut: bool = False) -> str | None:
    """``A``, ``B`` or ``TIE``; None where the reply does not say one of them in so many words.

    Thoughts before ``</think>`` are left out. An article, a negation, or both letters are no verdict, nor is the last
    word of a reply that was cut short: what follows "The better one is A" may be "or B".
    """
    if cut and _ENDS.search(reply):
        return None
    thoughts, end, said = reply.rpartition("</think>")
    said = (said if end or "<think>" not in reply else "").strip()
    if _NEGATED.search(said) or len(set(_LETTER.findall(said))) > 1:
        return None
    first = said.partition("\n")[0]    # a verdict on a line of its own, then reasons
    said = first if _FORMS[0].fullmatch(first) else said
    found = {match["word"].upper() for form in _FORMS if (match := form.fullmatch(said))}
    return found.pop() if len(found) == 1 else None
