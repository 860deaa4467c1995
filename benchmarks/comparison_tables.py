"""Which rows of a table differ: the declared comparison by one figure, its pairs, and the sentences that follow."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from algorithms.common.evaluation.inference.comparisons import (
    SHARE_MARGIN,
    WIN_RATE_MARGIN,
    Comparison,
    Pair,
    Verdict,
    compare,
)
from algorithms.common.evaluation.inference.intervals import Matrix, contrast
from algorithms.common.evaluation.inference.planning import Spread, prompts_needed, seeds_needed
from algorithms.common.evaluation.inference.wording import Costs, Runs, listed, number, paragraph, reading, verdict

from . import budgets
from .aggregation import ESTIMATED, Shared, in_each_seed, matrix, start_spread
from .audited import SCORE, judges, of_auditor, unable
from .family import Family, family_of
from .results_read import ROWS, ReportError, Result
from .tables import PairRow, Row, of_differences

SCORE_MARGIN = 0.1  # standard deviations of one answer of the start model: scores are practically equal, by default
# What a table may be compared by: the name or its beginning, in words, and whether less is better.
COMPARABLE = {
    "reward/gold": ("gold reward", False),
    "reward/proxy": ("proxy reward", False),
    "score/auditor": ("the auditor's score", False),
    "score/": ("a judge's score", False),
    "win_rate/": ("win rate", False),
    "win_rate_data/": ("win rate against the data's answers", False),
    "refusal/unanswerable": ("refusals of what cannot be answered", False),
    "refusal/answerable": ("refusals of what can be answered", True),
    "wrong/": ("wrong answers", True),
    "accuracy/exact": ("exact answers", False),
    "accuracy": ("accuracy", False),
    "exact_match": ("exact matches", False),
    "perplexity/": ("perplexity", True),
    "harness/": ("what lm-evaluation-harness finds", False),
}
OWN_SCORE = "the only score is one that methods were trained on, which favours them"
CANNOT_TELL = "The data cannot tell whose answers are better: "
TO_BE_SCORED = ("data.audit=0.3, where the data has comparisons (with fewer than 500 left for training no auditor is "
                "set aside by default, and one of some dozens is often wrong: more comparisons are better), or a "
                "judge: task=judge")
TO_BE_BELIEVED = "more comparisons in data.audit and data.heldout, or another judge (judge=…)"
NOTHING = "Nothing was compared: "
_MESSAGE = 700          # characters of what all runs failed for
DECLARED = "declared"   # why a table is compared by what a configuration or the command line names
# Where none is declared: the first of these that two rows have, and why it is taken.
DEFAULTS = {
    "reward/gold": "the reward that is known to be true",
    "accuracy/exact": "a rule finds whether an answer is right; the data has no gold reward",
    "score/": "a judge that no method was trained on; the data has no gold reward",
    "win_rate/": "a judge's comparisons with what training began with; the data has no gold reward and no judge scored "
                 "the answers",
    "win_rate_data/": "a judge's comparisons with the answers that the data prefers, the same for all rows; the data "
                      "has no gold reward and no judge scored the answers",
    "refusal/unanswerable": "what this data measures; a model that declines everything would win, so read the refusals "
                            "of known things beside it",
    "reward/proxy": "the data has no gold reward and no judge scored the answers; methods that were trained on this "
                    "score are favoured by it",
    "accuracy/heldout": "nothing scored answers; it says how held-out pairs are ranked",
    "accuracy/choices": "nothing scored answers; it says which options are chosen",
    "perplexity/heldout": "nothing scored answers; it says how likely held-out demonstrations are",
}


@dataclass(frozen=True)
class Declared:
    """How rows are compared, as the configuration's `report` or the command line has it."""

    figure: str | None = None       # None: the first of DEFAULTS
    family: str | None = None       # all, or the name of the row that the others are compared with; None: all
    margin: float | None = None     # in the figure's unit; None: the default of the figure's kind, where it has one
    pairs: tuple[tuple[str, str], ...] | None = None    # of rows, which the family has too; None: no more

    @classmethod
    def of(cls, results: Sequence[Result], given: "Declared") -> "Declared":
        """What was declared before the runs, where nothing is `given`. ReportError where runs disagree."""
        chosen = {}
        for key in (one.name for one in fields(cls)):
            found = {result.declared.get(key): None for result in results if result.declared}
            if (value := getattr(given, key)) is None and len(found) > 1:
                raise ReportError(f"report.{key}: found {', '.join(map(str, found))} in these runs; expected one; fix: "
                                  f"python -m benchmarks.report FOLDER… --{key} …")
            chosen[key] = value if value is not None else next(iter(found), None)
        if chosen["margin"] is not None and not chosen["margin"] > 0:
            raise ReportError(f"report.margin: found {chosen['margin']}; expected a number above 0, in the figure's "
                              "unit; fix: --margin 0.1")
        return cls(**chosen)


@dataclass
class Member:
    """A row and the runs it was made of."""

    row: Row
    runs: list[Result]              # complete, of different seeds in ascending order
    lost: list[Result] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.row.label

    def having(self, figure: str) -> list[Result]:
        return [run for run in self.runs if figure in run.evaluation]


@dataclass
class Compared:
    """What the table says about its rows."""

    figure: str | None              # None where nothing can be compared
    words: str
    pairs: list[PairRow]
    best: str | None                # the row that was shown to be better than every other
    notes: list[str]
    comparison: Comparison
    unknown: bool = False           # nothing says whose answers are better
    reason: str = ""                # why not, and what would
    obstacle: str = ""              # why nothing was compared


def compared(members: Sequence[Member], shared: Mapping[str, Shared], declared: Declared,
             budget: str | None, strict: bool = False) -> Compared:
    """Compares rows on the seeds and prompts that all of them have. ReportError where they cannot be as declared.

    strict: a declared pair with a row that is not there is an error too, and no reason to compare nothing.
    """
    figure, why = _figure(members, declared.figure)
    family = family_of([member.row for member in members], declared.family, declared.pairs, strict)
    taking = [member for member in members if figure and member.having(figure)]
    seeds = _common_seeds(taking, figure)
    notes = [f"Compared by {words_of(figure)[0]} ({figure}): {why}."] if len(taking) > 1 else []
    comparison, pairs = _compare(taking, seeds, shared, figure, family, declared.margin, notes)
    if missing := [f"{member.label} ({'no ' + str(figure) if member.runs else 'no finished run'})" for member in members
                   if member not in taking] if taking else []:
        notes.append(f"Not compared: {', '.join(missing)}.")
    runs = {member.label: _ended(member) for member in members if member.lost}
    if why and not figure:  # what could have been compared by cannot be believed
        comparison = replace(comparison, methods=tuple(member.label for member in members))
    budget = budget if comparison.methods else None
    told = words_of(figure)[0]
    if unit := of_differences(figure):
        told = f"{told}, compared in {unit}"
        notes += [f"A difference of 0.01 {unit} is a perplexity that is 1 % higher."] if pairs else []
    told = f"{told} alone" if figure == "reward/proxy" else told
    words = paragraph(comparison, told, budget, costs_of(taking or members), runs)
    unknown = f"This data cannot tell which row is better: {why}. Fix: {TO_BE_BELIEVED}." if why and not figure else \
        _unscored(members, figure, why) if comparison.pairs else ""
    words = f"{unknown} {words}" if unknown else words
    words = _all_alike(members) or words
    best = comparison.best if len(taking) == len(members) and not unknown else None
    obstacle = next((note for note in notes if note.startswith(NOTHING)), "")
    return Compared(figure if pairs else None, words, pairs, best, notes, comparison, bool(unknown), unknown, obstacle)


def _all_alike(members: Sequence[Member]) -> str:
    """Why no run ended, where several failed and all for the same reason; else empty."""
    lost = [run for member in members for run in member.lost]
    errors = {_anywhere(run): run.error for run in lost}
    if len(lost) < 2 or len(errors) > 1 or any(member.runs for member in members) or any(run.stopped for run in lost):
        return ""
    (error,) = errors.values()
    message = error.partition(": ")[2]      # without the name of its class
    message = message if len(message) <= _MESSAGE else f"{message[:_MESSAGE]} …"
    return f"No run ended: {'both' if len(lost) == 2 else f'all {len(lost)}'} failed for one reason. {message}"


def _anywhere(run: Result) -> str:
    """Why it failed, without the name of its own folder, by which the messages of two jobs differ."""
    return run.error.replace(str(run.folder.resolve()), "…").replace(str(run.folder), "…")


def _unscored(members: Sequence[Member], figure: str | None, why: str) -> str:
    """That what rows are compared by says nothing of answers, and what would; empty where it does, or was declared."""
    names = {name for member in members for run in member.runs for name in run.evaluation}
    ranks = figure == "accuracy/heldout" and "length/mean" in names     # reward models give no answers
    if figure != "reward/proxy" and (why == DECLARED or figure != "perplexity/heldout" and not ranks):
        return ""
    doubt = _doubt(members)
    own = OWN_SCORE if "reward/proxy" in names else "nothing scored them"
    reason = own if figure == "reward/proxy" else doubt or own
    return f"{CANNOT_TELL}{reason}. Fix: {TO_BE_BELIEVED if doubt else TO_BE_SCORED}."


def _compare(taking: Sequence[Member], seeds: Sequence[int], shared: Mapping[str, Shared], figure: str | None,
             family: Family, margin: float | None, notes: list[str]) -> tuple[Comparison, list[PairRow]]:
    labels = tuple(member.label for member in taking)
    nothing = Comparison(labels, (), 1, 1, "prompts", 0.05, None, False, False)
    if obstacle := _obstacle(labels, seeds, figure, family):
        notes.append(f"{NOTHING}{obstacle}")
    if obstacle or len(taking) < 2:
        return nothing, []
    notes += _seeds_note(taking, seeds, figure)
    kind, lower = ESTIMATED[shared[figure].kind], words_of(figure)[1]
    margin, told = _margin(figure, shared[figure].kind, taking, margin)
    try:
        runs = {member.label: [run for run in member.having(figure) if run.seed in seeds] for member in taking}
        figures = {label: matrix(figure, having, shared[figure]) for label, having in runs.items()}
        comparison = compare(figures, kind, family.of(labels), margin=margin, lower_is_better=lower)
    except ValueError as error:
        notes.append(f"{NOTHING}{error}.")
        return nothing, []
    apart = shared[figure].nested and len(seeds) > 1
    if apart:
        unit = f"{comparison.unit} in each seed"
        comparison = replace(comparison, prompts=shared[figure].count, unit=unit)
    pairs = [PairRow(pair, in_each_seed(pair.difference, shared[figure]) if apart else pair.difference, tuple(seeds),
                     verdict(pair, comparison), _settled(pair, figures, kind, comparison)) for pair in comparison.pairs]
    notes.append(f"Pairs: {family.words}, {len(pairs)} in all, on the same seeds and prompts, row by row.")
    notes += [told, reading(comparison)]
    if any(pair.settled for pair in pairs):
        notes.append("To settle a pair: as many seeds, or as many prompts with the seeds there are, would show a "
                     "difference as large as the one seen with a chance of 80 %; by this run, so roughly.")
    return comparison, pairs


def _obstacle(labels: Sequence[str], seeds: Sequence[int], figure: str | None, family: Family) -> str:
    """Why rows that have the figure are not compared, where one would expect it."""
    if labels and (missing := [row for row in family.rows if row not in labels]):
        return f"{' and '.join(missing)}, of the declared pairs, {'has' if len(missing) == 1 else 'have'} no {figure}."
    return "" if seeds or len(labels) < 2 else "no seed is in all rows. Fix: run the same seeds of all."


def _figure(members: Sequence[Member], declared: str | None) -> tuple[str | None, str]:
    """The figure to compare by, and why; None where nothing can be believed that could be compared by, and why not."""
    having: dict[str, int] = {}
    doubt = _doubt(members)
    for member in members:
        figures = {name: one.kind for run in member.runs for name, one in run.evaluation.items()}
        for name in (name for name, kind in figures.items() if kind in ROWS):
            having[name] = having.get(name, 0) + 1
    if declared is not None and having:
        comparable = [name for name in having if words_of(name)[0]]
        if declared not in comparable:
            told = ", of which neither more nor less is better" if declared in having else ""
            raise ReportError(f"report.figure: found {declared!r}{told}; expected one of {', '.join(comparable)}; "
                              "fix: python -m benchmarks.report FOLDER… --figure FIGURE")
        return (None, doubt) if doubt and of_auditor(declared) else (declared, DECLARED)
    order = list(DEFAULTS)
    if began_apart(members):    # one half is another model for each: win rates against it rank nothing
        order.remove("win_rate_data/")
        order.insert(order.index("win_rate/"), "win_rate_data/")
    for least in (2, 1):
        for start, why in ((start, DEFAULTS[start]) for start in order):
            for name, count in having.items():
                fits = name.startswith(start) if start.endswith("/") else name == start
                if fits and count >= least and not (doubt and of_auditor(name)):
                    return (None, f"{doubt}; methods that were trained on the proxy reward are favoured by it") \
                        if doubt and name == "reward/proxy" else (name, why)
    return None, doubt


def _doubt(members: Sequence[Member]) -> str:
    """Why the auditor of some row cannot be believed; empty where all can."""
    return next((unable(runs) for member in members if (runs := member.having(SCORE)) and not judges(runs)), "")


def began_apart(members: Sequence[Member]) -> bool:
    """Whether runs of one seed began with different models, as SFT's with the base and DPO's with SFT."""
    starts: dict[int | None, set[tuple[str, str]]] = {}
    for run in (run for member in members for run in member.runs if run.start):
        starts.setdefault(run.seed, set()).add(run.start)
    return any(len(found) > 1 for found in starts.values())


def words_of(figure: str | None) -> tuple[str, bool]:
    """A figure in words, and whether less of it is better; no words for what has no better and worse."""
    found = [told for start, told in COMPARABLE.items() if figure and figure.startswith(start)]
    return found[0] if found else ("", False)


def _common_seeds(taking: Sequence[Member], figure: str | None) -> list[int]:
    seeds = [{run.seed for run in member.having(figure)} for member in taking]
    return sorted(set.intersection(*seeds)) if seeds else []


def _seeds_note(taking: Sequence[Member], seeds: Sequence[int], figure: str) -> list[str]:
    more = {member.label: [run.seed for run in member.having(figure) if run.seed not in seeds] for member in taking}
    left = [f"{label} {' '.join(map(str, others))}" for label, others in more.items() if others]
    if not left:
        return []
    return [f"Compared on the seeds that all rows have ({' '.join(map(str, seeds))}); left out of the comparison: "
            f"{', '.join(left)}."]


def _margin(figure: str, kind: str, taking: Sequence[Member], declared: float | None) -> tuple[float | None, str]:
    """What counts as practically equal, and the note that says so."""
    if declared is not None:
        return declared, f"Practically equal: within ±{number(declared)}, as declared."
    if figure.startswith("win_rate"):
        margin, of = WIN_RATE_MARGIN, "the default of win rates"
    elif kind == "share":
        margin, of = SHARE_MARGIN, "the default of shares"
    else:
        found = next((one for start in ("sft", "base") for member in taking
                      if (one := start_spread(figure, member.runs, start))), None)
        margin = SCORE_MARGIN * found.deviation if found else None
        whose = "one answer" if found and found.single else "the mean of the answers to a prompt"
        of = f"the default of scores, a tenth of the standard deviation of {whose} of the start model"
    if not margin:
        return None, "Practically equal: said of no pair, since report.margin declares no difference that is none."
    return margin, f"Practically equal: within ±{number(margin)}, {of}; report.margin declares another."


def _settled(pair: Pair, figures: Mapping[str, Matrix], kind: Any, comparison: Comparison) -> str:
    """What would show a difference as large as the one seen; nothing for a pair that is settled."""
    if pair.verdict not in (Verdict.UNDECIDED, Verdict.SEEN_ALONE) or not pair.difference.mean:
        return ""
    squares = contrast(figures[pair.first], figures[pair.second], kind).squares.take(0)
    seeds, prompts = squares.shape
    seen, spread, alpha = abs(pair.difference.mean), Spread.of(squares), comparison.alpha / len(comparison.pairs)
    by_prompts = prompts_needed(seen, spread, seeds, alpha) if prompts > 1 else None
    more = f"{max(by_prompts, prompts + 1):,} {comparison.unit}" if by_prompts else ""
    if seeds == 1:
        return f"about {more}, for these trained models" if more else ""
    by_seeds = seeds_needed(seen, spread, prompts, alpha)
    parts = [f"about {max(by_seeds, seeds + 1):,} seeds"] if by_seeds else []
    parts += [f"{'' if parts else 'about '}{more} with {seeds} seeds"] if more else []
    return " or ".join(parts) or "no number of seeds up to 1,000"


def costs_of(members: Iterable[Member]) -> Costs | None:
    """Seconds where all rows have them, else tokens."""
    costs = {member.label: member.row.costs for member in members if member.runs}
    if costs and all("seconds" in cost for cost in costs.values()):
        money = {label: cost["money"] for label, cost in costs.items() if "money" in cost}
        return Costs("seconds", {label: cost["seconds"] for label, cost in costs.items()}, money)
    tokens = {label: cost.get("tokens_trained", 0) + cost.get("tokens_sampled", 0) for label, cost in costs.items()
              if {"tokens_trained", "tokens_sampled"} & set(cost)}
    return Costs("tokens", tokens) if tokens else None


def _ended(member: Member) -> Runs:
    failed, diverged = member.row.failed, member.row.diverged
    return Runs(len(member.runs) + failed + diverged, failed, diverged)


def budget_words(results: Sequence[Result]) -> str | None:
    """What all rows were given ("the same 2,000 labelled comparisons"); None where that is not one thing."""
    said = {tuple(sorted((key, str(value)) for key, value in result.budget.items())) for result in results}
    if len(said) != 1 or not (budget := results[0].budget).get("equal"):
        return None
    if budget.get("amount"):
        return budgets.words(results)
    if budget["equal"] != "labels":
        return f"the same {budgets.held(budget)}"
    used = {result.cost["labels"] for result in results if result.cost.get("labels")}
    if len(used) > 1:
        return None
    without = list(dict.fromkeys(result.algorithm for result in results if result.cost.get("labels") == 0))
    verb = "learns" if len(without) == 1 else "learn"
    of = f" ({listed(without)} {verb} from none of them)" if used and without else ""
    return f"the same {f'{used.pop():,.0f} labelled comparisons' if used else 'labels'}{of}"
