"""The data report for a reader: one page that loads nothing from elsewhere, and a summary for the terminal.

Whatever comes from the data is escaped, and its control characters (bidirectional ones too) are written out.
"""

from collections.abc import Iterable, Mapping
from os.path import commonpath
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...support.style import page_style
from ...support.terminal import printable
from .inspection import QUANTILES
from .sets import HELD_OUT, TRAINING
from .shards import grouped
from .told import turn_key_told

SETS = {
    "preferences": "judged responses trained on", "demonstrations": "responses to imitate",
    "prompts": "prompts to answer", "evaluation": "prompts of the reported evaluation",
    "heldout": "judged responses of held-out prompts", "audit": "judged responses that the auditor alone learns from",
    "tuning": "prompts for choosing settings", "choices": "questions with options",
}
# the rest of the report is listed as it is
SHOWN = {"read", "kept", "dropped", "lines", "first", "sets", "statistics", "split", "conversations", "near_duplicates",
         "sources", "kinds", "layouts", "ignored_columns", "fallbacks", "filtered", "skipped",
         "turn_keys"}
CONVERSATIONS = {"continued": "belong to a conversation whose beginning or continuation is trained on",
                 "answers_trained_on": "have a response that follows the same turn in a training prompt"}
WIDTH, HEIGHT = 240, 56
SOURCES = 12                # told on the terminal


def page(report: dict[str, Any], title: str, made: Mapping[str, str] | None = None) -> str:
    """The report of ``inspection.inspect`` as HTML; `made` heads it: of what, by which command, when, with what."""
    folder = _folder(report["layouts"])
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                              undefined=StrictUndefined, lstrip_blocks=True, finalize=_visible)
    environment.filters |= {"number": number, "percent": percent, "bars": bars,
                            "short": lambda path: path.removeprefix(folder)}
    environment.globals |= {"turn_key_told": turn_key_told, "grouped": grouped, "beyond": _beyond}
    others = {key.replace("_", " "): value for key, value in report.items() if key not in SHOWN and value}
    columns = list(dict.fromkeys(key for counts in report["sources"].values() for key in counts))
    return environment.get_template("inspection.html.j2").render(
        report=report, title=title, made=made or {}, folder=folder, style=Markup(page_style()),
        meanings=SETS, others=others, columns=columns, alarms=alarms(report),
        quantiles=list(QUANTILES), width=WIDTH, height=HEIGHT).lstrip()


def _folder(paths: Iterable[str]) -> str:
    """The folder that all files lie in, with its last slash, which the page says once; empty where there is none."""
    folders = {path.rpartition("/")[0] for path in paths}
    try:
        return f"{found}/" if folders and (found := commonpath(folders)) not in ("", "/") else ""
    except ValueError:  # absolute ones and others
        return ""


def _beyond(outliers: dict[str, Any], least: float) -> str:
    """On which side of the others outliers lie; what nothing can be is not said."""
    below, above = f"below {number(outliers['below'])}", f"above {number(outliers['above'])}"
    return f"{below} or {above}" if least < outliers["below"] else above


def _visible(value: Any) -> Any:
    """What a template prints; markup that a macro made is finished already."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def number(value: float | None) -> str:
    """Whole numbers with separators, others with four digits; a dash for none."""
    if value is None:
        return "–"
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else f"{value:,.4g}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def bars(histogram: dict[str, Any]) -> list[dict[str, Any]]:
    """Rectangles of a histogram in a field of WIDTH × HEIGHT, each with what it stands for."""
    counts, edges, most = histogram["counts"], histogram["edges"], max(histogram["counts"])
    step, made = WIDTH / len(counts), []
    for i, count in enumerate(counts):
        height = max(HEIGHT * count / most, 1.0) if count else 0.0     # what is there can be seen
        last = histogram["open"] and i == len(counts) - 1
        told = f"{number(edges[i])} or more" if last else f"{number(edges[i])} to below {number(edges[i + 1])}"
        made.append({"x": round(i * step, 2), "y": round(HEIGHT - height, 2), "width": round(max(step - 1, 1), 2),
                     "height": round(height, 2), "told": f"{told}: {number(count)}"})
    return made


def alarms(report: dict[str, Any]) -> list[str]:
    """What should not be so."""
    split, near = report["split"], report["near_duplicates"]
    found = [f"{number(count)} records of {name} have a prompt that is trained on"
             for name, count in split["shared_with_training"].items() if count]
    for kind, told in CONVERSATIONS.items():
        found += [f"{number(count)} records of {name} {told}"
                  for name, count in report["conversations"][kind].items() if count]
    if split["tuning_and_evaluation"]:
        found.append(f"{number(split['tuning_and_evaluation'])} prompts are both tuned and evaluated on")
    if near["count"]:
        found.append(f"{number(near['count'])} of {number(near['heldout_prompts'])} held-out prompts nearly equal a "
                     f"training prompt (Jaccard similarity of word pairs ≥ {near['threshold']})")
    if near["untried_candidates"]:
        found.append(f"near-duplicates: {number(near['untried_candidates'])} candidates were too many to compare; "
                     "the count is a lower bound")
    return found


# ---- the terminal


def terminal(report: dict[str, Any]) -> str:
    """The report in short, a few lines a topic."""
    lines = [f"read {number(report['read'])} rows, kept {number(report['kept'])} records"
             + (": " + _listed(report["kinds"]) if report["kinds"] else "")]
    lines += [f"  dropped {number(count)}: {reason}" + _places(report["lines"].get(reason, []), count)
              for reason, count in report["dropped"].items()]
    lines += [f"  filtered {number(count)}: {name}" for name, count in report["filtered"].items()]
    lines += [f"  skipped {number(count)} times: {what}" for what, count in report["skipped"].items()]
    lines += [f"  columns not read in {path}: {', '.join(names)}"
              for path, names in grouped(report["ignored_columns"]).items()]
    lines += [f"  {turn_key_told(name, count)}" for name, count in report["turn_keys"].items()]
    lines += [f"  {name} made from: {source}" for name, source in report["fallbacks"].items()]
    lines += [f"  source {name}: {_source(counts)}" for name, counts in list(report["sources"].items())[:SOURCES]]
    if len(report["sources"]) > SOURCES:
        lines.append(f"  … {len(report['sources']) - SOURCES} more sources (the report has them)")
    if report["duplicates"]:
        lines.append(f"  {number(report['duplicates'])} duplicate records (kept)")
    if report["contradictions"]:
        lines.append(f"  {number(report['contradictions'])} contradictory labels: pairs ordered in both ways (kept)")
    lines += ["", f"  {'':14s} {'records':>9s} {'prompts':>9s}  {'responses':12s} {'words of a prompt':24s} "
                  "words of a response"]
    for name in (*TRAINING, *HELD_OUT, "audit", "choices"):
        if found := report["statistics"].get(name):
            lines.append(f"  {name:14s} {number(found['records']):>9s} {number(found['distinct_prompts']):>9s}  "
                         f"{_sizes(found['responses_per_record']):12s} {_range(found['prompt']['words']):24s} "
                         f"{_range(found['response']['words'])}".rstrip())
        elif name in report["sets"]:
            lines.append(f"  {name:14s} {'0':>9s}")
    lines.append("")
    for name, found in report["statistics"].items():
        lines += _labels(name, found)
    told = [f"  ATTENTION: {alarm}" for alarm in alarms(report)]
    lines += told or ["  no prompt, and no near-duplicate of one, on both sides of the split"]
    lines += [f"    {kind.replace('_', ' ')}: {', '.join(places)}"
              for kind, places in report["conversations"]["lines"].items() if places]
    lines += [f"    {pair['training']['at']} ≈ {pair['heldout']['at']} ({pair['jaccard']:.2f})"
              for pair in report["near_duplicates"]["first"]]
    return "\n".join(printable(line).replace("\n", "\\n") for line in lines)     # a name cannot forge a line


def _labels(name: str, found: dict[str, Any]) -> list[str]:
    """What one set's scores and lengths show."""
    lines, bias = [], found.get("length_bias", {"longer": 0, "shorter": 0})
    if bias["longer"] + bias["shorter"]:
        lines.append(f"  {name}: the longer response is preferred in {percent(bias['share'])} of "
                     f"{number(bias['longer'] + bias['shorter'])} pairs of unequal length")
    tied = {k: row for k, row in found.get("ties", {}).items() if row["tied_pairs"]}
    lines += [f"  {name}: k = {k}: {number(row['tied_pairs'])} of {number(row['pairs'])} pairs tied, "
              f"{number(row['all_tied'])} of {number(row['records'])} records wholly" for k, row in tied.items()]
    figures = {"prompts": found["prompt"]["words"], "responses": found["response"]["words"],
               "margins": found.get("margin")}
    outliers = {label: figure["outliers"]["count"] for label, figure in figures.items() if figure}
    far = {label: count for label, count in outliers.items() if count}
    if far:
        lines.append(f"  {name}: far from the others in words or margin (the report names them): {_listed(far)}")
    return lines


def _source(counts: dict[str, int]) -> str:
    """A source's counts; of what it has and gives less of, both."""
    given = [f"{number(counts[name])} of {number(counts[f'{name}_available'])} {name}" for name in TRAINING
             if counts.get(f"{name}_available")]
    rest = {name.replace("_", " "): count for name, count in counts.items()
            if count and name.removesuffix("_available") not in TRAINING}
    return ", ".join([*given, _listed(rest)])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number(count)} {name}" for name, count in counts.items())


def _places(places: list[str], count: int) -> str:
    return f" ({', '.join(places)}{', …' if count > len(places) else ''})" if places else ""


def _sizes(counts: dict[str, int]) -> str:
    sizes = list(counts)
    return sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _range(figure: dict[str, Any] | None) -> str:
    return f"{number(figure['median'])} ({number(figure['min'])} to {number(figure['max'])})" if figure else ""
