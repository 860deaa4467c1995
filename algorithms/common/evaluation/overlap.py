"""How many of its words an answer shares with the one that the data gives: ROUGE-L and BLEU, sentence by sentence.

They count words, not whether an answer is good: a better answer in other words scores less. They stand beside what
judges say, for comparison with papers that print them. ROUGE-L: Lin 2004, the F-measure of the longest common
subsequence, by rouge-score. BLEU: Papineni et al. 2002, of each answer by itself, with exponential smoothing (Chen &
Cherry 2014) and the n-grams that it is long enough for, by sacrebleu; the mean of these is not the BLEU of a corpus,
which pools n-grams over all answers and has no value of a prompt.

A character of a script that is written without spaces counts as a word (``records.words``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

import pandas as pd

from ..data.records.words import CHARACTER, units
from ..support.errors import ConfigError

if TYPE_CHECKING:
    from .evaluate import Evaluation

ROUGE, BLEU = "overlap/rouge_l", "overlap/bleu"
PACKAGES = {"rouge-score": "rouge_score", "sacrebleu": "sacrebleu"}  # the extra overlap: as installed, as imported
# what sacrebleu's tokenizer for Chinese sets apart besides characters; those for other languages know none of them
_APART = re.compile(f"{CHARACTER}|[\u3000-\u303f\uff00-\uffef]")


class Words:
    """What rouge-score takes for a tokenizer. Of ASCII text it gives what that package's own does."""

    def tokenize(self, text: str) -> list[str]:
        """Lower case, of letters, digits and the marks on them.

        >>> Words().tokenize("Don't panic! 我爱 Ελλάδα")
        ['don', 't', 'panic', '我', '爱', 'ελλάδα']
        """
        text = unicodedata.normalize("NFC", text.lower())
        return units("".join(one if unicodedata.category(one)[0] in "LMN" else " " for one in text))


class Overlap:
    """The scores of answers, from 0 to 1."""

    def __init__(self):
        with contextlib.redirect_stderr(sys.__stderr__):  # absl closes what it finds there once logging is set up anew
            from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU as Bleu

        self._rouge = RougeScorer(["rougeL"], tokenizer=Words())
        self._bleu = Bleu(effective_order=True)  # by its tokenizer 13a, in which a space parts words

    def rouge_l(self, answer: str, reference: str) -> float:
        return float(self._rouge.score(reference, answer)["rougeL"].fmeasure)

    def bleu(self, answer: str, reference: str) -> float:
        return self._bleu.sentence_score(_spaced(answer), [_spaced(reference)]).score / 100


def _spaced(text: str) -> str:
    return _APART.sub(lambda found: f" {found[0]} ", text)


def check_installed() -> None:
    """ConfigError where the extra is missing."""
    missing = [name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"eval.overlap: found no {' and no '.join(missing)}; expected the extra overlap; "
                          "fix: pip install -e '.[overlap]' -c constraints.txt")


def check_answers(references: Mapping[str, str], prompts: int) -> None:
    """references: by prompt_id what the data answers to so many prompts. ConfigError where it answers none."""
    if not any(map(_comparable, references.values())):
        raise ConfigError(f"eval.overlap: found no answer of the data to any of the {prompts:,} evaluated prompts; "
                          "expected some to compare with; fix: eval.overlap=false, or data that holds answers")


def _comparable(reference: str | None) -> bool:
    """Whether there is a word in it."""
    return bool(reference and Words().tokenize(reference))


def scored(samples: pd.DataFrame, references: Mapping[str, str]) -> pd.DataFrame:
    """The picked of ``evaluate.sample_frame`` to prompts that the data answers, with columns ROUGE and BLEU."""
    usable = {key: reference for key, reference in references.items() if _comparable(reference)}
    picked = samples[samples["picked"] & samples["prompt_id"].isin(usable)].reset_index(drop=True)
    scores, both = Overlap(), list(zip(picked["response"], picked["prompt_id"].map(usable)))
    return picked.assign(**{name: [score(answer, reference) for answer, reference in both]
                            for name, score in ((ROUGE, scores.rouge_l), (BLEU, scores.bleu))})


def with_overlap(evaluation: Evaluation, references: Mapping[str, str]) -> Evaluation:
    """The evaluation with what its answers share with the data's among what was measured of them."""
    if not len(evaluation.samples):
        return evaluation
    found = scored(evaluation.samples, references).melt("prompt_id", [ROUGE, BLEU], "figure", "value")
    parts = [part for part in (evaluation.measured, found) if len(part)] or [found]
    return replace(evaluation, measured=pd.concat(parts, ignore_index=True))


def told() -> dict[str, str]:
    """How they are computed, for a result's file."""
    return {**{name: version(name) for name in PACKAGES}, "bleu": "mean of sentence BLEU, tok:13a, smooth:exp, "
            "effective order", "rouge_l": "mean of F-measures, no stemming"}
