"""The sentences that a comparison of methods allows, and no others.

What is called better are Holm's rejections; one seed speaks of trained models, never of methods.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, isinf, log10

from .claims import Answer, Finding
from .comparisons import Comparison, Pair, Verdict

NAMED = 4       # methods that a sentence names; more are counted
_GROUPS = 4     # of pairs, or of methods with as many wins, that a sentence names; the others are counted
_TOLD = 45      # pairs up to which a sentence names them; of more, wins are counted
_ALIKE = 1.15   # costs within this ratio are not ordered: the seconds of one machine differ by as much


@dataclass(frozen=True)
class Runs:
    """How the runs of one method ended."""

    total: int
    failed: int = 0
    diverged: int = 0


@dataclass(frozen=True)
class Costs:
    """What each method cost, in one unit."""

    unit: str                       # in the plural: "seconds", "tokens"
    values: Mapping[str, float]     # by method
    money: Mapping[str, float] = field(default_factory=dict)    # what they come to, where a price is known


def paragraph(comparison: Comparison, figure: str, budget: str | None = None, costs: Costs | None = None,
              runs: Mapping[str, Runs] | None = None) -> str:
    """Who is better, what is undecided, the budget and the costs: a few sentences for a reader who knows no statistics.

    `figure` names what was compared ("gold reward"), `budget` what all were given ("the same 2,000 labelled
    comparisons").
    """
    sentences = [*_compared(comparison, figure), *_spent(comparison.methods, budget, costs), *_ended(runs or {})]
    return " ".join(sentences)


def verdict(pair: Pair, comparison: Comparison) -> str:
    """What is said of one pair, for the cell of a table; no full stop."""
    return {
        Verdict.BETTER: lambda: f"{pair.winner} is better than {pair.loser}{_small(pair, comparison)}",
        Verdict.TRAINED_MODEL_BETTER: lambda: f"this trained {pair.winner} is better than this trained {pair.loser}"
                                              f"{_small(pair, comparison)} (no claim about the methods)",
        Verdict.SEEN_ALONE: lambda: "seen alone, not among the "
                                    f"{_count(len(comparison.pairs), 'comparison')}{_small(pair, comparison)}",
        Verdict.EQUAL: lambda: f"practically equal (within ±{number(comparison.margin)})",
        Verdict.UNDECIDED: lambda: "no difference seen; this run would have shown "
                                   + ("none, however large" if isinf(pair.smallest_shown) else
                                      f"about {about(pair.smallest_shown)}"),
    }[pair.verdict]()


def reading(comparison: Comparison) -> str:
    """What intervals and "better" mean in this table."""
    count, level = len(comparison.pairs), f"{100 * (1 - comparison.alpha):g} %"
    seeds, prompts = comparison.seeds, f"{comparison.prompts:,} {comparison.unit}"
    if seeds > 1:
        text = (f"Intervals are {level} and hold for new seeds and new {comparison.unit}; there are {seeds} seeds and "
                f"{prompts}.")
    else:
        text = (f"Intervals are {level} and hold for these trained models on new {comparison.unit}; there is 1 seed, "
                f"so the methods' other seeds are not covered, and there are {prompts}.")
    wrongly = f"would be said in at most {100 * comparison.alpha:g} % of tables"
    if count == 1:
        text += f' Were there no true difference, "better" {wrongly}.'
    elif count:
        text += (f' Were there no true difference in any of the {count:,} comparisons, "better" {wrongly} (Holm\'s '
                 "adjustment); the intervals are of each pair alone, without that adjustment.")
    if comparison.shrunk:
        text += (" A pair's spread over seeds is taken halfway to that of all pairs, since few seeds tell little of "
                 "it: a column of differences to the start shows the interval of that row alone.")
    if seeds == 2:
        text += " Two seeds leave intervals about four times too wide: take 3 or more, and 5 to compare methods."
    return text


def finding(found: Finding, claim: str) -> str:
    """What a run says to a claim, given as a clause ("ppo exceeds dpo by more than 0.2"); one sentence."""
    text = f"That {claim} is {found.answer.value}" if found.answer is not Answer.OPPOSITE else \
        f"That {claim} is not reproduced: the opposite was found"
    if found.answer is not Answer.UNDECIDED:
        return text + "."
    if found.difference.seeds == 1:
        return text + ": one seed says nothing about methods."
    text += f": this run would have shown about {about(found.smallest_shown)} from the margin"
    if found.seeds_needed:
        text += f", and about {_count(found.seeds_needed, 'seed')} would decide if the difference is what it seems"
    return text + "."


def would_be_seen(least: float, most: float) -> str:
    """What would have shown in comparisons where nothing was seen; infinite: no difference that there can be."""
    chance = "would have been seen with a chance of 80 %"
    if isinf(least):
        return f"none, however large, {chance}"
    if isinf(most):
        return f"in some a difference of about {about(least)} or more {chance}, in others none, however large"
    least, most = about(least), about(most)
    size = f"a difference of about {least}" if least == most else f"differences of about {least} to {most}"
    return f"{size} {chance}"


def about(value: float) -> str:
    """Two significant digits: what rests on a handful of seeds is known no better."""
    if value == 0:
        return "0"
    return number(round(value, 1 - floor(log10(abs(value)))))


def number(value: float) -> str:
    """Without an exponent, thousands grouped, three significant digits below 1,000."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:,.{max(2 - floor(log10(abs(value))), 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def listed(items: Sequence[str], last: str = "and") -> str:
    """a; a and b; a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def named(items: Sequence[str]) -> str:
    """Few by their names; of more, how many methods they are."""
    return listed(items) if len(items) <= NAMED else f"{len(items):,} methods"


def _compared(comparison: Comparison, figure: str) -> Iterable[str]:
    by = f"By {figure}" + (" (lower is better)" if comparison.lower_is_better else "")
    if not comparison.pairs:
        alone = len(comparison.methods) == 1
        yield "There is one method, and nothing to compare it with." if alone else "Nothing was compared."
        return
    by_verdict = {kind: [pair for pair in comparison.pairs if pair.verdict is kind] for kind in Verdict}
    if len(comparison.pairs) > _TOLD:
        yield from _counted(comparison, by, by_verdict)
        yield from _of_one_seed(comparison)
        return
    claims = [pair for pair in comparison.pairs if pair.verdict.claims]
    clauses = [_claims(comparison, claims)] if claims else []
    if equal := by_verdict[Verdict.EQUAL]:
        within = f"practically equal (within ±{number(comparison.margin)})"
        clauses.append(f"{equal[0].first} and {equal[0].second} are {within}" if len(equal) == 1 else
                       f"{within} are {_pairs(equal, ' as well as ')}")
    if clauses:
        yield f"{by}, {'; '.join(clauses)}."
    alone, undecided = by_verdict[Verdict.SEEN_ALONE], by_verdict[Verdict.UNDECIDED]
    for sentence in (_alone(comparison, alone), _undecided(comparison, undecided)):
        if sentence:
            yield sentence if clauses else f"{by}, {sentence[0].lower()}{sentence[1:]}"
            clauses = clauses or [sentence]
    yield from _of_one_seed(comparison)


def _of_one_seed(comparison: Comparison) -> Iterable[str]:
    if comparison.seeds == 1:
        yield ("Each method was trained with one seed: this is about the trained models, which another seed may order "
               "otherwise, and not about the methods.")


def _claims(comparison: Comparison, claims: Sequence[Pair]) -> str:
    """ppo is better than dpo and sft; dpo is better than sft. Winners over the same methods share a clause."""
    beaten: dict[str, list[str]] = {}
    for pair in claims:
        beaten.setdefault(pair.winner, []).append(pair.loser)
    winners: dict[tuple[str, ...], list[str]] = {}
    for method in sorted(beaten, key=lambda method: -len(beaten[method])):
        winners.setdefault(tuple(sorted(beaten[method], key=comparison.methods.index)), []).append(method)
    clauses = []
    for losers, methods in winners.items():
        verb = "is" if len(methods) == 1 else "are"
        if comparison.seeds == 1:
            clauses.append(f"{_trained(methods)} {verb} better than {_trained(losers)}")
            continue
        everyone = comparison.best in methods and len(losers) > 1
        others = f"all others ({listed(losers)})" if everyone else listed(losers)
        clauses.append(f"{listed(methods)} {verb} better than {others}")
    return "; ".join(clauses)


def _counted(comparison: Comparison, by: str, by_verdict: Mapping[Verdict, Sequence[Pair]]) -> Iterable[str]:
    """How the pairs came out and who is better than how many: nobody reads the names of so many pairs."""
    claims = [pair for pair in comparison.pairs if pair.verdict.claims]
    equal, alone, undecided = (by_verdict[one] for one in (Verdict.EQUAL, Verdict.SEEN_ALONE, Verdict.UNDECIDED))
    told = [f"{len(claims):,} of {_count(len(comparison.pairs), 'comparison')} show a difference"]
    told += [f"in {len(equal):,} the two are practically equal (within ±{number(comparison.margin)})"] if equal else []
    told += [f"{len(alone):,} would show one only if looked at alone, which is too little among so many"] * bool(alone)
    told += [f"in {len(undecided):,} no difference was seen"] if undecided else []
    yield f"{by}, {'; '.join(told)}."
    if claims:
        yield f"{_wins(comparison, Counter(pair.winner for pair in claims))}."
    if undecided:
        shown = would_be_seen(*(choose(pair.smallest_shown for pair in undecided) for choose in (min, max)))
        yield f"Where no difference was seen, {shown}."


def _wins(comparison: Comparison, wins: Mapping[str, int]) -> str:
    """Better than so many others: ppo and grpo (than 17 each), dpo (5)."""
    counts = sorted(set(wins.values()), reverse=True)[:_GROUPS]
    groups = [[method for method in comparison.methods if wins.get(method) == count] for count in counts]
    told = [f"{listed(names)} ({count:,}{' each' if len(names) > 1 else ''})" for names, count in zip(groups, counts)]
    if rest := len(wins) - sum(map(len, groups)):
        told.append(f"{rest:,} more (fewer)")
    whose = "trained models" if comparison.seeds == 1 else "methods"
    return f"Better than so many other {whose}: {', '.join(told)}"


def _trained(methods: Sequence[str]) -> str:
    return f"{'this' if len(methods) == 1 else 'these'} trained {listed(methods)}"


def _alone(comparison: Comparison, pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    looked_at = "that pair is" if len(pairs) == 1 else "each of these pairs is"
    return (f"A difference between {_pairs(pairs)} is seen only where {looked_at} looked at alone, which is too little "
            f"among {_count(len(comparison.pairs), 'comparison')}.")


def _undecided(comparison: Comparison, pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    methods = len(comparison.methods)
    everything = len(pairs) == methods * (methods - 1) // 2 and methods > 2
    who = f"any two of the {methods} methods ({listed(comparison.methods)})" if everything else _pairs(pairs)
    if comparison.seeds == 1 and everything:
        who = f"any two of the {methods} trained models ({listed(comparison.methods)})"
    shown = would_be_seen(*(choose(pair.smallest_shown for pair in pairs) for choose in (min, max)))
    return f"No difference was seen between {who}; {shown}."


def _pairs(pairs: Sequence[Pair], joined: str = ", and between ") -> str:
    """Names every pair, those of one method together: dpo and rrhf, and between ppo and each of dpo and sft."""
    left, groups = [(pair.first, pair.second) for pair in pairs], []
    while left and len(groups) < _GROUPS:
        names = [name for pair in left for name in pair]
        centre = max(dict.fromkeys(names), key=names.count)
        mine = [pair for pair in left if centre in pair]
        others = [second if first == centre else first for first, second in mine]
        groups.append(f"{centre} and {others[0]}" if len(others) == 1 else f"{centre} and each of {listed(others)}")
        left = [pair for pair in left if pair not in mine]
    if left:
        groups.append(f"the two of {_count(len(left), 'other pair')}")
    return joined.join(groups)


def _spent(methods: Sequence[str], budget: str | None, costs: Costs | None) -> Iterable[str]:
    if budget:
        yield f"All methods were given {budget}." if len(methods) > 1 else f"{methods[0]} was given {budget}."
    known = {method: costs.values[method] for method in methods if method in costs.values} if costs else {}
    if not known:
        return
    least, most = min(known, key=known.get), max(known, key=known.get)
    low, high = number(known[least]), number(known[most])
    cheap, dear = (number(costs.money[method]) if method in costs.money else "" for method in (least, most))
    of_least, of_most = (f" ({told} in money)" if told else "" for told in (cheap, dear))
    if len(known) == 1:
        yield f"{least} cost {low} {costs.unit}{of_least}."
    elif low == high:
        yield f"Each cost {low} {costs.unit}{of_least}."
    elif known[most] <= _ALIKE * known[least]:
        both = f" ({cheap} to {dear} in money)" if cheap and dear else ""
        yield f"{'Both' if len(known) == 2 else 'All'} cost about the same: {low} to {high} {costs.unit}{both}."
    else:
        yield (f"The cheapest was {least} with {low} {costs.unit}{of_least}, the most expensive {most} with "
               f"{high}{of_most}.")


def _ended(runs: Mapping[str, Runs]) -> Iterable[str]:
    for method, ended in runs.items():
        lost = [f"{'all' if 1 < count == ended.total else count} {what}"
                for count, what in ((ended.failed, "failed"), (ended.diverged, "diverged")) if count]
        left = ended.total - ended.failed - ended.diverged
        if lost:
            rest = f"its figures are those of the other {left}" if left else "it has no figures"
            yield f"Of {_count(ended.total, 'run')} of {method}, {listed(lost)}; {rest}."


def _small(pair: Pair, comparison: Comparison) -> str:
    if not pair.within_margin:
        return ""
    return f", by less than the ±{number(comparison.margin)} that count as practically equal"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
