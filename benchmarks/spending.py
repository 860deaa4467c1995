"""What the methods of a table cost, as sentences for someone who chooses among them."""

from collections.abc import Mapping, Sequence

from algorithms.common.evaluation.inference.wording import NAMED, Costs, about, listed, named, number

from .comparison_tables import Member
from .costs import OWN, own_parts
from .results_read import Result

ALIKE = 1.15    # costs within this ratio are not ordered


def spent(chosen: Sequence[str], finished: Sequence[Member], costs: Costs | None, following: str | None) -> str:
    """following: the row of the next best mean."""
    values = costs.values if costs else {}
    if not chosen or any(label not in values for label in chosen):
        return spent_in_all(finished, costs)
    cheapest = min(values, key=lambda label: values[label])
    known = _known(finished, values)
    it, stands, its = ("it", "stands", "its") if len(chosen) == 1 else ("they", "stand", "their")
    tuned = any("tuning" in run.raw for member in finished if member.label in chosen[:NAMED] for run in member.runs)
    trials = f" and the trials that found {its} settings" if tuned else ""
    told = f"{_each(chosen[:NAMED], costs)}, the stages {it} {stands} on{trials} included"
    if cheapest in chosen:
        told += f"; {'nothing' if not known else 'none'}{known} was cheaper" if len(chosen) == 1 else \
            f"; {cheapest} was the cheapest of all{known}"
    elif len(chosen) == 1 and values[cheapest] > 0:
        ratio = values[chosen[0]] / values[cheapest]
        times = "about as much as" if ratio <= ALIKE else f"{about(ratio)} times"
        told += f": {times} the cheapest{known}, {cheapest} ({_priced(cheapest, costs)})"
    else:
        told += f"; the cheapest of all{known}, {cheapest}, cost {_priced(cheapest, costs)}"
    if following in values and following != cheapest:
        told += f"; {following}, which has the next best mean, cost {_priced(following, costs)}"
    choosers = [member for member in finished if member.label in {*chosen[:NAMED], cheapest, following}
                and member.row.costs.get("trainable_parameters") == 0]
    return f"{told}.{_of_use(choosers)}{_of_devices(finished, costs)}"


def _of_use(choosers: Sequence[Member]) -> str:
    """That a method whose work is done when it is asked pays then, and how much of its cost that is here."""
    if not choosers:
        return ""
    names = named([member.label for member in choosers])
    many = len(choosers) > 1
    asked = [answers for member in choosers for run in member.runs if (answers := _answers(run))]
    told = (f" {names} {'choose' if many else 'chooses'} among several answers, and {'pay' if many else 'pays'} for "
            "drawing them again with every use")
    if not asked:
        return f"{told}."
    each = sum(seconds for seconds, _ in asked) / sum(count for _, count in asked)
    whose = "their costs have" if many else "its cost has"
    return f"{told} ({number(each)} seconds an answer here; {whose} those of the evaluation)."


def _answers(run: Result) -> tuple[float, int] | None:
    """Seconds of a run's own part, and how many answers of the evaluation were chosen in them; None: not told."""
    count = run.raw.get("evaluation", {}).get("length/mean", {}).get("n", 0) * (run.raw.get("samples") or 0)
    seconds = own_parts(run.raw.get("cost", {}), "seconds")[OWN]
    return (seconds, count) if count and seconds else None


def _known(finished: Sequence[Member], values: Mapping[str, float]) -> str:
    """Among which rows something is the cheapest, where not all were measured; else empty."""
    return "" if all(member.label in values for member in finished) else " whose cost was measured"


def _of_devices(finished: Sequence[Member], costs: Costs) -> str:
    """That seconds are of several machines."""
    devices = {run.device for member in finished for run in member.runs} - {None}
    return " The runs were made on different devices, whose seconds are not alike." \
        if len(devices) > 1 and costs.unit == "seconds" else ""


def spent_in_all(finished: Sequence[Member], costs: Costs | None) -> str:
    """What the rows cost where none can be named."""
    if not costs or not costs.values:
        return "What the methods cost was not measured."
    least, most = (choose(costs.values, key=lambda label: costs.values[label]) for choose in (min, max))
    known, devices = _known(finished, costs.values), _of_devices(finished, costs)
    if least == most:
        return f"{least} cost {_priced(least, costs)}."
    if costs.values[most] <= ALIKE * costs.values[least]:
        return f"All{known} cost about the same, at most {_priced(most, costs)}.{devices}"
    low, high = (_priced(label, costs) for label in (least, most))
    return f"{least} was the cheapest{known} with {low}, {most} the most expensive with {high}.{devices}"


def _each(labels: Sequence[str], costs: Costs) -> str:
    return listed([f"{label} cost {_priced(label, costs)}" for label in labels])


def _priced(label: str, costs: Costs) -> str:
    """What a row cost, and what that comes to where an hour has a price."""
    told = amount(costs.values[label], costs.unit)
    return f"{told} or {number(costs.money[label])} in money" if label in costs.money else told


def amount(value: float, unit: str) -> str:
    """A cost as it is said: long times in minutes or hours."""
    if unit == "seconds" and value >= 180:
        return f"{number(value / 60)} minutes" if value < 7200 else f"{number(value / 3600)} hours"
    return f"{number(value)} {unit}"
