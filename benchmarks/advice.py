"""Which row to take, what it costs and why that is not sure: three sentences for someone who knows none of the words.

They say no more than the corrected comparison does: what nothing was shown to be better than may be taken, and where
nothing was shown, cost is all that is left to choose by.
"""

from collections.abc import Sequence
from math import inf, isinf

from algorithms.common.evaluation.inference.comparisons import Comparison, Pair, Verdict
from algorithms.common.evaluation.inference.wording import NAMED, Costs, about, listed, named, number

from .audited import accuracy, of_auditor, parted
from .comparison_tables import CANNOT_TELL, Compared, Member, began_apart, costs_of, words_of
from .spending import ALIKE, spent, spent_in_all
from .starts import unlike_starts
from .tables import Advice

FEW_SEEDS = 5       # below it the number of seeds is a reason for doubt
UNFINISHED = 0.9    # share of answers that ended by themselves below which a reader is warned
# What the figure that rows are compared by leaves open, by the beginning of its name.
MEASURES = {
    "win_rate/sft": "",
    "win_rate/base": "",
    "win_rate_data/gold": "",
    "win_rate": "the answers were compared by a judge, which is not always right",
    "score/": "the answers were scored by a judge, which is not always right",
    "refusal/unanswerable": "by this measure a model that declines everything would be best, so read beside it how "
                            "much of what can be answered was declined",
    "refusal/answerable": "by this measure a model that declines nothing would be best, so read beside it how much of "
                          "what cannot be answered was declined",
    "wrong/": "by this measure a model that declines everything would be best",
    "harness/": "this measures a benchmark's tasks, not answers to this data's prompts",
    "accuracy/answerable": "",
    "accuracy/exact": "",
    "accuracy": "this measures how texts are ranked, not what is answered",
    "perplexity/": "this measures how likely given texts are, not what is answered",
}
_SETTLED = 2        # pairs of which it is said what would settle them


def advise(members: Sequence[Member], found: Compared) -> Advice:
    """Of all rows, as `compared` found them."""
    finished = [member for member in members if member.runs]
    costs = costs_of(finished)
    trials = [member.label for member in finished if any(run.trial for run in member.runs)]
    if trials:
        all_are = len(trials) == len(finished)
        what, whose = ("this was a trial", "Its") if all_are else (f"{named(trials)} was only tried", "Such") \
            if len(trials) == 1 else (f"{named(trials)} were only tried", "Such")
        return Advice(f"No method can be recommended: {what}.", spent_in_all(finished, costs),
                      f"{whose} runs took a few steps on a little data, so their figures say nothing of the methods.")
    take, chosen = _take(finished, len(members), found, costs)
    return Advice(take, spent(chosen, finished, costs, _next(chosen, finished, found)), _doubt(chosen, members, found))


def _best_first(finished: Sequence[Member], found: Compared) -> list[str]:
    """By the means of the figure that rows are compared by."""
    means = {member.label: member.row.estimates[found.figure].mean for member in finished
             if found.figure in member.row.estimates}
    return sorted(means, key=lambda label: means[label] if words_of(found.figure)[1] else -means[label])


def _next(chosen: Sequence[str], finished: Sequence[Member], found: Compared) -> str | None:
    """The row with the best mean after the one that is taken for its own."""
    first, *rest = _best_first(finished, found) or [None]
    return rest[0] if rest and list(chosen) == [first] else None


def _take(finished: Sequence[Member], rows: int, found: Compared, costs: Costs | None) -> tuple[str, list[str]]:
    """What may be taken, and its labels."""
    comparison, labels = found.comparison, [member.label for member in finished]
    if not labels:
        return "No method can be recommended: no run has finished.", []
    if found.unknown:
        return "No method can be recommended: this data cannot tell whose answers are better.", []
    if len(labels) == 1:
        alone = f"there is {labels[0]} alone" if rows == 1 else f"{labels[0]} is the only one with a finished run"
        return f"No method can be recommended: {alone}.", []
    if not comparison.pairs:
        return "No method can be recommended: nothing was compared.", []
    claims = [pair for pair in comparison.pairs if pair.verdict.claims]
    if not claims:
        return _alike(comparison, found, costs)
    by = f"by {words_of(found.figure)[0]}"
    return _among(comparison, claims, by, rows, costs, _best_first(finished, found))


def _alike(comparison: Comparison, found: Compared, costs: Costs | None) -> tuple[str, list[str]]:
    """Where none is better than another."""
    equal = all(pair.verdict is Verdict.EQUAL for pair in comparison.pairs)
    none = f"Neither of {named(comparison.methods)} was shown to be better than the other" \
        if len(comparison.methods) == 2 else f"None of {named(comparison.methods)} was shown to be better than another"
    told = f"{none} by {words_of(found.figure)[0]}"
    if equal and _whole(comparison):
        told = f"{named(comparison.methods)} are practically equal by {words_of(found.figure)[0]}"
    values = {label: costs.values[label] for label in comparison.methods if label in costs.values} if costs else {}
    if len(values) < len(comparison.methods):
        return f"{told}.", []
    cheapest = min(values, key=lambda label: values[label])
    alike = _cheapest_first([label for label in values if values[label] <= ALIKE * values[cheapest]], costs)
    if len(alike) == len(values):
        return f"{told}, and they cost about the same: take any.", alike
    return f"{told}: nothing here is a reason to pay for more than {_one_of(alike, 'methods')}, the cheapest.", alike


def _cheapest_first(labels: Sequence[str], costs: Costs | None) -> list[str]:
    """Those of unknown cost stand last."""
    return sorted(labels, key=lambda label: costs.values.get(label, inf) if costs else inf)


def _one_of(labels: Sequence[str], kind: str) -> str:
    """dpo or ppo; of many one of 7 methods such as the first of them."""
    few = listed(list(labels[:NAMED]), "or")
    return few if len(labels) <= NAMED else f"one of {len(labels)} {kind} such as {few}"


def _among(comparison: Comparison, claims: Sequence[Pair], by: str, rows: int, costs: Costs | None,
           best_first: Sequence[str]) -> tuple[str, list[str]]:
    """The rows that beat another and that none was shown to beat. rows: of the table, compared or not."""
    beaten = {pair.loser for pair in claims}
    wins = {method: {pair.loser for pair in claims if pair.winner == method} for method in comparison.methods}
    leaders = [method for method in comparison.methods if wins[method] and method not in beaten]
    several, apart = len(leaders) > 1, _apart(comparison, leaders)
    if len(leaders) > NAMED:    # cost is no reason to choose among rows that nobody compared
        leaders = sorted(leaders, key=best_first.index) if apart else _cheapest_first(leaders, costs)
    once = comparison.seeds == 1    # then nothing is said of methods
    taken = _trained(leaders) if once and len(leaders) <= NAMED else ""
    taken += _one_of(leaders, "trained models" if once else "methods") + _best(apart, leaders)
    losers = [method for method in comparison.methods if all(method in wins[leader] for leader in leaders)]
    others = _others(comparison, leaders, losers, rows)
    text = f"Take {taken}: {by} {'each' if several else 'it'} is {'ahead of' if once else 'better than'} {others}"
    parts = [text, _between(comparison, leaders)] if several else [text]
    rest = [method for method in comparison.methods if not wins[method] and method not in beaten]
    met = {name for pair in comparison.pairs for name in (pair.first, pair.second)
           if {pair.first, pair.second} & set(leaders)}
    them = "them" if several else "it"
    if untold := [method for method in rest if method in met]:
        parts.append(f"{named(untold)} could not be told from {them}")
    if unmet := [method for method in rest if method not in met]:
        parts.append(f"{named(unmet)} {'was' if len(unmet) == 1 else 'were'} not compared with {them}")
    return f"{'; '.join(part for part in parts if part)}.", leaders


def _others(comparison: Comparison, leaders: Sequence[str], losers: Sequence[str], rows: int) -> str:
    """The rows that all leaders beat."""
    once = comparison.seeds == 1
    rest = "the other trained models" if once else "the others"
    if len(losers) > 1 and len(losers) == len(comparison.methods) - len(leaders):
        return f"each of {rest}{'' if len(comparison.methods) == rows else ' that were compared'}"
    if len(losers) > NAMED:
        return f"{len(losers)} of {rest}"
    return f"{_trained(losers) if once else ''}{named(losers)}" if losers else "some others"


def _trained(labels: Sequence[str]) -> str:
    return "this trained " if len(labels) == 1 else "these trained "


def _apart(comparison: Comparison, leaders: Sequence[str]) -> bool:
    """Whether several may be taken that were not all compared with each other."""
    return len(_met(comparison, leaders)) < _pairs(leaders)


def _met(comparison: Comparison, leaders: Sequence[str]) -> list[Pair]:
    """The pairs of those that may be taken."""
    return [pair for pair in comparison.pairs if pair.first in leaders and pair.second in leaders]


def _pairs(labels: Sequence[str]) -> int:
    return len(labels) * (len(labels) - 1) // 2


def _best(apart: bool, leaders: Sequence[str]) -> str:
    """Why these are named of many that nobody compared with each other."""
    return ", whose means are the best" if apart and len(leaders) > NAMED else ""


def _between(comparison: Comparison, leaders: Sequence[str]) -> str:
    """How those that may be taken compare with each other."""
    verdicts = [pair.verdict for pair in _met(comparison, leaders)]
    if not verdicts:
        return "they were not compared with each other"
    if _apart(comparison, leaders):
        were = "was" if len(verdicts) == 1 else "were"
        return f"only {len(verdicts):,} of their {_pairs(leaders):,} pairs {were} compared"
    if all(one is Verdict.EQUAL for one in verdicts):
        return "they are practically equal"
    return "between them no difference was " + ("seen" if Verdict.SEEN_ALONE not in verdicts else "shown")


def _whole(comparison: Comparison) -> bool:
    """Whether every row was compared with every other."""
    return len(comparison.pairs) == _pairs(comparison.methods)


def _doubt(chosen: Sequence[str], members: Sequence[Member], found: Compared) -> str:
    """Why the answer is not sure, the gravest first, and in any case what it holds for."""
    if found.unknown:
        return _beyond(found.reason)
    comparison = found.comparison
    taken = [member for member in members if member.label in chosen]
    if not any(member.runs for member in members):
        return "Every run failed or was stopped; the notes say how."
    if not comparison.pairs:
        return found.obstacle or ("A method is judged beside another that answered the same prompts, such as the "
                                  "start: algorithm=sft,…")
    reasons = [*_of_starts(members), *_of_seeds(comparison, members), *_of_family(comparison, chosen),
               *_of_size(comparison, chosen), *_of_judge(found, members), *_of_chosen(taken), *_of_pairs(comparison),
               *_of_losses(members, comparison)]
    holds = "In any case it holds for this model, this data and these settings only."
    if not reasons:
        asked = f"{comparison.prompts:,} {comparison.unit}"
        return (f"As sure as {comparison.seeds} trainings of each and {asked} make it: where no method is better than "
                f'another, at most one of {1 / comparison.alpha:.0f} such sweeps would say "better". {holds}')
    return f"Not sure: {'; '.join(reasons)}. {_to_settle(found)}{holds}"


def _beyond(reason: str) -> str:
    """Why the data cannot tell, without the words that it cannot, which the first sentence has."""
    told = reason.removeprefix(CANNOT_TELL)
    return f"{told[:1].upper()}{told[1:]}"


def _to_settle(found: Compared) -> str:
    """What would show the differences that were not shown: of two pairs at most, the table has all."""
    left = [row for row in found.pairs if row.settled]
    if len(left) > _SETTLED:
        return 'What would settle each pair stands in the table of pairs, under "to settle it". '
    return "".join(f"To tell {row.pair.first} from {row.pair.second}: {row.settled}. " for row in left)


def _of_starts(members: Sequence[Member]) -> list[str]:
    unlike = unlike_starts([run for member in members for run in member.runs])
    return ["runs of one seed began with different models, and differ by more than their methods"] if unlike else []


def _of_seeds(comparison: Comparison, members: Sequence[Member]) -> list[str]:
    more = any(len(member.runs) > comparison.seeds for member in members if member.label in comparison.methods)
    if comparison.seeds == 1:
        once = "all methods have one seed alone in common" if more else "each method was trained once"
        return [f"{once}, and another seed may order them otherwise"]
    if comparison.seeds < FEW_SEEDS:
        return [f"all methods have {comparison.seeds} seeds only in common" if more else
                f"each method was trained {'twice' if comparison.seeds == 2 else f'{comparison.seeds} times'} only"]
    return []


def _of_family(comparison: Comparison, chosen: Sequence[str]) -> list[str]:
    met = len(_met(comparison, chosen))
    asked = f"asked of {met} of their pairs only" if met else "not asked"
    return [f"which of {named(chosen)} is better was {asked} (report.family=all compares all pairs)"] \
        if _apart(comparison, chosen) else []


def _of_size(comparison: Comparison, chosen: Sequence[str]) -> list[str]:
    small = [pair.loser for pair in comparison.pairs
             if pair.verdict.claims and pair.winner in chosen and pair.within_margin]
    told = [f"it is better than {named(small)} by less than {number(comparison.margin)}, which counts as practically "
            "equal"] if small else []
    least = {pair.loser: min(abs(pair.difference.low), abs(pair.difference.high)) for pair in comparison.pairs
             if pair.verdict.claims and pair.winner in chosen and not pair.within_margin}
    near = {loser: value for loser, value in least.items() if comparison.margin and value < comparison.margin}
    if near and len(chosen) == 1:
        nearest = min(near, key=lambda loser: near[loser])
        told.append(f"its lead over {nearest} may be as small as {number(near[nearest])}, and one of less than "
                    f"{number(comparison.margin)} counts as practically equal")
    return told


def _of_judge(found: Compared, members: Sequence[Member]) -> list[str]:
    if of_auditor(found.figure or ""):
        believed = next((one for member in members if (one := accuracy(member.runs))), None)
        agrees = f", and it agrees with {believed.mean:.0%} of held-out comparisons" if believed else ""
        return [f"the answers were scored by a model that learned from comparisons{agrees}"]
    told = next((told for start, told in MEASURES.items() if (found.figure or "").startswith(start)), "")
    told = [told] if told else []
    if (found.figure or "").startswith("win_rate/") and began_apart(members):
        told.append("a win rate is against what each began with, which is not the same model for all")
    return told


def _of_chosen(taken: Sequence[Member]) -> list[str]:
    cut = [member.label for member in taken
           if (one := member.row.estimates.get("eos_rate")) and one.mean < UNFINISHED]
    over = [f"{member.label} (in {count} of {len(member.runs)} runs)" for member in taken
            if (count := sum(parted(run) is not None for run in member.runs))]
    return ([f"many answers of {named(cut)} were cut at the limit of their length"] if cut else []) + \
        ([f"{named(over)} learned to please the reward model more than to answer better"] if over else [])


def _of_pairs(comparison: Comparison) -> list[str]:
    open_ = [pair for pair in comparison.pairs if pair.verdict in (Verdict.UNDECIDED, Verdict.SEEN_ALONE)]
    if not open_:
        return []
    least, most = (choose(pair.smallest_shown for pair in open_) for choose in (min, max))
    size = about(most) if about(least) == about(most) else f"{about(least)} to {about(most)}, by pair,"
    missed = f", and one {'however large' if isinf(most) else f'of less than about {size}'} may have been missed"
    if len(comparison.pairs) == 1:
        return [f"no difference was shown{missed}"]
    return [f"in {len(open_)} of {len(comparison.pairs)} comparisons no difference was shown{missed}"]


def _of_losses(members: Sequence[Member], comparison: Comparison) -> list[str]:
    without = [member.label for member in members if not member.runs]
    left = [member.label for member in members if member.runs and member.label not in comparison.methods]
    fewer = [member.label for member in members if member.runs and member.lost]
    return ([f"no run of {named(without)} finished"] if without else []) + \
        ([f"{named(left)} could not be compared"] if left else []) + \
        ([f"some runs of {named(fewer)} did not finish"] if fewer else [])
