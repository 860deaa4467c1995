"""What a table says of a budget of tokens or seconds: a row's steps were found before training, so a spread remains."""

from collections.abc import Sequence

from algorithms.common.evaluation.inference.wording import listed

from .results_read import Result

SPENT = {"tokens": ("tokens_trained", "tokens_sampled"), "seconds": ("seconds",)}
ALIKE = 1.15    # what was used is about the same within this ratio
WORDS = {"tokens": "tokens, trained and sampled", "seconds": "seconds"}


def words(results: Sequence[Result]) -> str | None:
    """What all were given ("about the same tokens (980 to 1,050)"); None where some were not held to it."""
    used = [spent(run) if run.calibration else None for run in results]
    if None in used:
        return None
    least, most, unit = f"{min(used):,.0f}", f"{max(used):,.0f}", results[0].budget["equal"]
    if len(used) > 1 and max(used) <= ALIKE * min(used):
        return f"about the same {unit} ({least} to {most})"
    took = most if least == most else f"{least} to {most}"
    return f"a budget of {results[0].budget['amount']:,.0f} {unit}, and took {took}"


def spent(result: Result) -> float | None:
    """Of the unit that was to be held equal, the stages stood on included."""
    parts = [result.cost.get(name) for name in SPENT.get(result.budget.get("equal"), ())]
    return sum(parts) if parts and None not in parts else None


def held(budget: dict) -> str:
    """A budget in words, as it was set."""
    numbers = {key: f"{value:,.0f}" if key == "amount" and value == int(value) else value
               for key, value in budget.items() if key != "equal" and isinstance(value, (str, int, float))}
    rest = ", ".join(f"{key} {value}" for key, value in numbers.items())
    return str(budget.get("equal") or "nothing") + (f" ({rest})" if rest else "")


def money(results: Sequence[Result]) -> list[str]:
    """What an hour cost, where that was said."""
    prices = sorted({run.price for run in results if run.price is not None})
    return [f"Money: {' or '.join(f'{price:,g}' for price in prices)} for an hour."] if prices else []


def spread(results: Sequence[Result]) -> list[str]:
    """How far the runs are from the budget that all were given, and which were not held to it."""
    held = [run for run in results if run.calibration and spent(run) is not None]
    free = list(dict.fromkeys(run.algorithm for run in results if run.budget.get("amount") and not run.calibration))
    notes = []
    if held:
        unit = WORDS[held[0].budget["equal"]]
        used = sorted((spent(run), run.algorithm, run.budget["amount"]) for run in held)
        (least, first, _), (most, last, _) = used[0], used[-1]
        off = [amount / whole - 1 for amount, _, whole in used]
        notes.append(f"The spread that remains: rows took {least:,.0f} ({first}) to {most:,.0f} ({last}) {unit}, the "
                     f"stages they stand on included; {min(off):+.1%} to {max(off):+.1%} of the budget. Steps were "
                     "counted before training, by the pace of a few.")
    if free:
        verb = "takes" if len(free) == 1 else "take"
        notes.append(f"Not held to the budget: {listed(free)}, which {verb} no steps: what it costs is spent when it "
                     "answers, and is counted for answering every evaluated prompt once.")
    return notes
