"""Result files → one table and one page: Markdown, CSV, LaTeX, terminal and report.html.

    python -m benchmarks.report FOLDER…      # rebuilds the table of the runs below these folders and prints it

Reads the files that runs left (result.json, figures.parquet), the verdicts beside them and the answers that these are
of, and nothing else, so a table can be made again anywhere, without a model. Rows are algorithms, told apart by the
overrides that vary besides the seed (`members`); several seeds become one row, whose figures are made of all seeds'
answers to the same prompts. How rows are compared is declared in `report` of the configuration.
"""

import logging
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from algorithms.common.evaluation.inference.wording import listed

from . import budgets
from .advice import advise
from .aggregation import PART_OF, Shared, estimate, of_these_models, shared_prompts
from .audited import ACCURACY, alarms, auditors
from .command_line import in_words, over_folders
from .comparison_tables import Declared, Member, budget_words, compared
from .members import members_of, origin, own_settings
from .printed import print_table
from .results_read import ROWS, STOPPED, UNBEGUN, ReportError, Result, collect
from .starts import start_rows, unlike_starts
from .tables import COSTS, Alarm, Table, plain, title, write
from .verdict_figures import with_verdicts

log = logging.getLogger(__name__)

TRIAL = "A trial: rows marked debug=trial took a few steps on a little data; their figures say nothing of the methods."
exit_code = 0  # of the process: 1 once a multirun's job has failed; run.py exits with it


def table(results: Sequence[Result], declared: Declared | None = None) -> Table:
    """One row per algorithm and setting, how the rows compare, and what a reader must know.

    `declared` counts over what the runs' configurations declare. ReportError for runs that cannot be in one table.
    """
    return _table(results, members_of(results), declared)


def publish(results: Sequence[Result], folder: str | Path | None, declared: Declared | None = None) -> Table:
    """The table, written into `folder`, where one is given, in all its forms: table.md, .csv, .tex and report.html."""
    members = members_of(results)
    made = _table(results, members, declared)
    if folder is not None:
        from .page.render import write_page  # what draws takes a second to import

        write(made, folder)
        write_page(made, members, results, folder)
    return made


def _table(results: Sequence[Result], members: Sequence[Member], declared: Declared | None) -> Table:
    complete = [result for result in results if result.status == "complete"]
    shared = _shared(complete)
    notes = [note for member in members for note in _measure(member, shared)]
    budget = budget_words(complete) if complete else None
    found = compared(members, shared, Declared.of(results, declared or Declared()), budget,
                     strict=declared not in (None, Declared()))
    words = found.words if budget or not complete else f"{found.words} No budget was held equal for all rows."
    alarm, parted = alarms(members)
    words = f"{words} {alarm}" if alarm else words
    words = f"{TRIAL} {_unmarked(words, results)}" if any(result.trial for result in results) else words
    words = f"{told} {words}" if (told := _stopped(results)) else words
    rows = [*start_rows(members, shared), *(member.row for member in members)]
    best = None if any(run.trial for run in complete) else found.best
    made = Table(rows, [], words, found.pairs, found.figure, best, found.unknown, advise(members, found))
    said = dict.fromkeys(note for run in complete for note in run.said)
    made.notes = [*found.notes, *_marked(made), *parted, *auditors(members), *_held_equal(complete),
                  *own_settings(results), *_tuned(complete), *budgets.money(complete), *_meaning(members),
                  *_counted(made, shared), *notes, *said, *_starts(complete), *_other_starts(made), *_data(results),
                  *_origins(results), *_losses(members)]
    return made


def _unmarked(words: str, results: Sequence[Result]) -> str:
    """Sentences of rows that are all trials, without the mark of each."""
    if not all(result.trial for result in results):
        return words
    return words.replace(" (debug=trial)", "").replace(", debug=trial)", ")")


def _stopped(results: Sequence[Result]) -> str:
    """How far a sweep came that was ended from outside; empty for any other."""
    lost = [f"{count} {how}" for how in (STOPPED, UNBEGUN) if (count := sum(run.stopped == how for run in results))]
    finished = sum(run.status == "complete" for run in results)
    return (f"Stopped: {finished} of {len(results)} runs finished ({', '.join(lost)}); the same command goes on."
            if lost else "")


def conclude(folder: Path) -> None:
    """The table and the report of a sweep's folder, whatever is there; neither Ctrl-C nor a kill reaches it."""
    global exit_code
    before, exit_code = exit_code, 1  # Hydra only warns when a callback raises; the process must not end with 0
    with _uninterrupted():
        results = with_verdicts(collect([folder]), [folder])
        if results:
            print_table(publish(results, folder))
            log.info("the report is %s; table.md, table.csv and table.tex are beside it", folder / "report.html")
    exit_code = 1 if any(result.status == "failed" for result in results) else before


@contextmanager
def _uninterrupted() -> Iterator[None]:
    ends = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(one, signal.SIG_IGN) for one in ends]
    except ValueError:  # not the main thread, which no interrupt reaches
        yield
        return
    try:
        yield
    finally:
        for one, earlier in zip(ends, before):
            signal.signal(one, earlier)


@in_words
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 where the folders hold nothing that can be shown."""
    parser = over_folders("report", "Make the table of finished runs.")
    parser.add_argument("--out", help="where report.html, table.md, table.csv and table.tex go (default: FOLDER, if "
                                      "only one)")
    parser.add_argument("--figure", help="compare rows by it, such as reward/gold (default: of the runs)")
    parser.add_argument("--family", help="all, or the row that each is compared with (default: of the runs)")
    parser.add_argument("--pair", nargs=2, action="append", metavar="ROW", help="two rows that are compared beside the "
                        "family, as often as wanted (default: of the runs)")
    parser.add_argument("--margin", type=float, help="what is practically equal, in its unit (default: of the runs)")
    options = parser.parse_args(arguments)
    results = with_verdicts(collect(options.folders), options.folders)
    if not results:
        raise ReportError(f"{', '.join(options.folders)}: found no result.json; expected the folder of a run")
    out = options.out or (options.folders[0] if len(options.folders) == 1 else None)
    made = publish(results, out, Declared(options.figure, options.family, options.margin,
                                          options.pair and tuple(map(tuple, options.pair))))
    print_table(made)
    if out is not None:
        print(f"\nthe report is {Path(out) / 'report.html'}")
    return 0


# Figures


def _shared(complete: Sequence[Result]) -> dict[str, Shared]:
    """The prompts that all runs have, of each figure that has rows. ReportError where runs disagree what it is."""
    shared = {}
    for name in dict.fromkeys(name for run in complete for name in run.evaluation):
        having = [run for run in complete if name in run.evaluation]
        kinds = {run.evaluation[name].kind for run in having}
        units = {run.evaluation[name].estimate.unit for run in having}
        if len(units) > 1 or len(kinds) > 1 and kinds != {"mean", "share"}:
            told = f"{listed(sorted(kinds))} of {listed(sorted(units))}"
            raise ReportError(f"{name}: found {told}; expected one kind of one unit in all runs; fix: run the same "
                              "commands again with one version of the code")
        if kinds & set(ROWS):
            shared[name] = shared_prompts(name, having)
    return shared


def _measure(member: Member, shared: Mapping[str, Shared]) -> list[str]:
    """Fills in the row's figures and costs; returns what is to be said about them."""
    row, runs, notes = member.row, member.runs, []
    for name in dict.fromkeys(name for run in runs for name in run.evaluation):
        having = member.having(name)
        try:
            row.estimates[name] = (of_these_models(name, having) if name == ACCURACY else
                                   estimate(name, having, shared.get(name)))
        except ValueError as error:
            notes.append(f"{row.label}: no {name}: {error}.")
            continue
        if all(run.evaluation[name].kind == "constant" for run in having):
            row.constants.add(name)
        if len(having) < len(runs):
            notes.append(f"{row.label}: {name} is from {len(having)} of {len(runs)} seeds.")
    for name in COSTS:
        if measured := [run.cost[name] for run in runs if name in run.cost]:
            row.costs[name] = sum(measured) / len(measured)
    return notes


# Notes


def _losses(members: Sequence[Member]) -> list[str]:
    return [f"{member.label}, {origin(run)}: {_lost(run)}." for member in members for run in member.lost]


def _lost(run: Result) -> str:
    told = _cut(plain(run.error.removeprefix("Stopped: ") if run.stopped else run.error))
    how = run.stopped or ("diverged" if run.diverged else "failed")
    return told if run.stopped and told.startswith(how) else f"{how}: {told}"


def _marked(made: Table) -> list[str]:
    return [f"Marked: {made.best}, the one row that was shown to be better than every other."] if made.best else []


def _cut(message: str, length: int = 300) -> str:
    """A message short enough for a note; table.csv has it whole."""
    message = message.rstrip(".")
    return message if len(message) <= length else message[:length] + " …"


def _held_equal(results: Sequence[Result]) -> list[str]:
    """What the runs share by design; a comparison across budgets must not pass for one under a common budget."""
    said: dict[str, list[str]] = {}
    for result in results:
        said.setdefault(budgets.held(result.budget), []).append(result.algorithm)
    if len(said) > 1:
        parts = "; ".join(f"{text} for {', '.join(dict.fromkeys(names))}" for text, names in said.items())
        return [f"Held equal: not the same in all rows: {parts}."]
    labels = sorted({result.cost["labels"] for result in results if result.cost.get("labels")})
    if "labels" in said and len(labels) > 1:
        used = ", ".join(f"{count:,.0f}" for count in labels)
        return [Alarm(f"Not held equal: labels were to be, but rows used {used}.")]
    return [f"Held equal: {text}." for text in said] + budgets.spread(results)


def _tuned(complete: Sequence[Result]) -> list[str]:
    """How many trials found each row's settings, where that was declared."""
    tuned: dict[tuple[int, int], list[str]] = {}
    for result in complete:
        if told := result.raw.get("tuning"):
            tuned.setdefault((told["trials"], told["full"]), []).append(result.algorithm)
    return [f"Tuned on prompts that no table reports: {', '.join(dict.fromkeys(names))} with {asked} trials each, of "
            f"which {full} were trained to their end; what ended is charged." for (asked, full), names in tuned.items()]


def _meaning(members: Sequence[Member]) -> list[str]:
    """What the rows' own intervals hold for."""
    counts = {len(member.runs) for member in members} - {0}
    notes = []
    if counts - {1}:
        notes.append("Rows of several seeds: mean with its 95 % interval for new seeds and new prompts; costs are "
                     "means over seeds.")
    if 1 in counts:
        notes.append("Rows of one seed: 95 % interval for this trained model and new prompts; the method's other seeds "
                     "are not covered.")
    names = {name for member in members for name in member.row.estimates}
    if any(name.startswith("overlap/") for name in names):
        notes.append("ROUGE-L and BLEU count the words that an answer shares with the data's own, answer by answer; "
                     "they do not say which answer is better (benchmarks/results/overlap shows how they rank methods "
                     "whose true reward is known).")
    resampled = sorted({name for member in members for run in member.runs if len(member.runs) > 1
                        for name, one in run.evaluation.items() if one.kind == "resampled"})
    if resampled:
        notes.append(f"{listed(resampled)}: over several seeds the interval is for new seeds on these prompts.")
    if "kl/bound" in names:
        notes.append("KL (bound) is the upper bound log n − (n−1)/n of best-of-n, the other KL columns are measured.")
    if any(member.row.costs.get("trainable_parameters") == 0 for member in members):
        notes.append("trainable: what the method itself trains, without the stages it stands on; 0 of one that only "
                     "chooses.")
    if counts:
        notes.append("Costs include those of the stages a method stands on (labels, memory: the largest).")
    return notes


def _counted(made: Table, shared: Mapping[str, Shared]) -> list[str]:
    """What the figures were measured on, in each seed: of one that only some answers have, row by row."""
    counted: dict[str, dict[str, None]] = {}
    apart = []
    for name in made.shown:
        having = [row for row in made.rows if name in row.estimates and name in shared]
        of = f" of up to {shared[name].most:,}" if having and shared[name].most > shared[name].count else ""
        rows: dict[str, list[str]] = {}
        for row in having:
            one = row.estimates[name]
            rows.setdefault(f"{one.n:,}{of} {one.unit}", []).append(row.label)
        if name in PART_OF and len(rows) > 1:
            told = "; ".join(f"{text} ({', '.join(labels)})" for text, labels in rows.items())
            apart.append(f"{title(name)[0]} is of those that have it, not the same in all rows: {told}.")
        else:
            for text in rows:
                counted.setdefault(text, {})[title(name)[0]] = None
    if not counted:
        return apart
    fewer = " (those that all runs have)" if any(" of up to " in text for text in counted) else ""
    told = "; ".join(f"{text} ({', '.join(titles)})" for text, titles in counted.items())
    return [f"Measured on, in every run{fewer}: {told}.", *apart]


def _starts(complete: Sequence[Result]) -> list[str]:
    """Runs of one seed that did not begin with the same model differ by more than their methods."""
    odd = unlike_starts(complete)
    told = f"Not from one start: runs of seed {', '.join(odd)} began with different models."
    return [Alarm(told)] if odd else []


def _other_starts(made: Table) -> list[str]:
    """Rows whose difference to SFT is to another SFT than the table's row, so that the two rows' differ from it."""
    sft = [row for row in made.rows if row.algorithm == "sft" and "reward/gold" in row.estimates]
    odd = []
    for row in made.rows:
        own, less = (row.estimates.get(name) for name in ("reward/gold", "reward/gold_minus_sft"))
        alike = [one.estimates["reward/gold"] for one in sft if one.seeds == row.seeds]
        if own and less and own.n == less.n and alike and \
                not any(math.isclose(own.mean - less.mean, one.mean, abs_tol=1e-9) for one in alike):
            odd.append(row.label)
    told = "is to the SFT that training began with, which is no row of this table"
    return [f"gold − SFT of {listed(odd)} {told}."] if odd else []


def _data(results: Sequence[Result]) -> list[str]:
    said: dict[str, list[str]] = {}
    for result in results:
        data = result.data
        parts = [f"read {data['read']}"] if data.get("read") is not None else []
        if dropped := {reason: n for reason, n in data.get("dropped", {}).items() if n}:
            parts.append(f"dropped {sum(dropped.values())} ({', '.join(f'{r} {n}' for r, n in dropped.items())})")
        parts += [f"truncated {data['truncated']}"] if data.get("truncated") else []
        parts += [f"{name} ← {source}" for name, source in data.get("fallbacks", {}).items()]
        if parts:
            kind = Alarm if data.get("truncated") else str
            said.setdefault(kind("; ".join(parts)), []).append(result.algorithm)
    of = {text: f"Data of {', '.join(dict.fromkeys(names))}" if len(said) > 1 else "Data"
          for text, names in said.items()}
    return [type(text)(f"{of[text]}: {text}.") for text in said]


def _origins(results: Sequence[Result]) -> list[str]:
    commits, devices = (sorted({getattr(result, name) for result in results} - {None}) for name in ("commit", "device"))
    parts = [f"commit {', '.join(commits)}"] * bool(commits) + [f"device {', '.join(devices)}"] * bool(devices)
    kind = Alarm if any("+changes" in commit for commit in commits) else str
    return [kind(f"Made with: {'; '.join(parts)}.")] if parts else []


if __name__ == "__main__":
    sys.exit(main())
