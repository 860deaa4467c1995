"""Instructions rewritten from preferences: what a model is asked, and which of its proposals are kept.

Black-box prompt optimisation: Cheng et al. 2023, arXiv 2311.04155, §3. A model that sees an instruction with a better
and a worse answer proposes an instruction that would have led to the better one; a rewriter learns from such pairs of
instructions. The wording of the question and the rules for what is dropped are this project's.
"""

import string
from dataclasses import dataclass

from .records.record import Messages
from .records.words import units

MARK = "Improved instruction:"
CUT, UNMARKED, EMPTY, SAME, OTHER, LEAKS = REASONS = (
    "cut off before its end", "without the mark", "nothing after the mark", "the instruction as it was",
    "keeps too few of the instruction's words: an answer, or another task", "repeats the better answer")

_QUESTION = """\
Somebody gave an assistant the instruction below and got two answers. People found the first one better.

[Instruction]
{instruction}
[End of the instruction]

[Better answer]
{better}
[End of the better answer]

[Worse answer]
{worse}
[End of the worse answer]

First say in a few sentences what makes the better answer better: whether it is correct, then whether it is thorough
and coherent, then whether it is harmless. Then write the instruction anew, so that an assistant that reads only your
version gives an answer at least as good. Keep all that the instruction says and asks for. If it gives a text to work
on, leave that text as it is. Ask for nothing that suits only one of these answers, and take no words from them. Do not
follow the instruction yourself. End with a line that begins with "{mark}", then your version, and nothing after it."""


@dataclass(frozen=True)
class Rules:
    """Which proposals are kept."""

    least_kept: float = 0.5     # share of the instruction's distinct words that must be in it
    longest_shared: int = 5     # words in a row that it may share with the better answer and not with the instruction

    def refused(self, proposal: str, instruction: str, better: str) -> str | None:
        """Why a proposal is dropped; None where it is kept."""
        new, old = words(proposal), words(instruction)
        if not new:
            return EMPTY
        if new == old:
            return SAME
        if len(set(new) & set(old)) < self.least_kept * len(set(old)):
            return OTHER
        length = self.longest_shared + 1
        if (_runs(new, length) & _runs(words(better), length)) - _runs(old, length):
            return LEAKS
        return None

    def read(self, said: str, finished: bool, instruction: str, better: str) -> tuple[str, str | None]:
        """The proposal in what a model said, and why it is dropped; None where it is kept."""
        proposal, reason = proposed(said, finished)
        return proposal, reason or self.refused(proposal, instruction, better)


def question(instruction: str, better: str, worse: str) -> str:
    """What a model is asked."""
    return _QUESTION.format(instruction=instruction, better=better.strip(), worse=worse.strip(), mark=MARK)


def proposed(said: str, finished: bool) -> tuple[str, str | None]:
    """What follows the last mark, without quotation marks around all of it; and why it cannot be read, if so."""
    _, mark, proposal = said.rpartition(MARK)
    if not finished:
        return "", CUT
    if not mark:
        return "", UNMARKED
    proposal = proposal.strip()
    for left, right in ('""', "“”", "''"):
        inner = proposal[1:-1]
        if len(proposal) > 1 and proposal[0] == left and proposal[-1] == right and not {left, right} & {*inner}:
            proposal = inner.strip()
    return proposal, None if proposal else EMPTY


def instruction_of(prompt: str | Messages) -> str | None:
    """The single instruction that a prompt is; None where it is a conversation, or has a system's turn."""
    if isinstance(prompt, str):
        return prompt
    return prompt[0]["content"] if len(prompt) == 1 and prompt[0]["role"] == "user" else None


def in_place(prompt: str | Messages, instruction: str) -> str | Messages:
    """The prompt of :func:`instruction_of` with another instruction."""
    return instruction if isinstance(prompt, str) else [{**prompt[0], "content": instruction}]


def words(text: str) -> list[str]:
    """In lower case, without punctuation around them."""
    found = (word.casefold().strip(string.punctuation + "“”‘’…") for word in units(text))
    return [word for word in found if word]


def _runs(found: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(found[start:start + length]) for start in range(len(found) - length + 1)}
