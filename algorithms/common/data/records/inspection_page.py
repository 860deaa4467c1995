"""The data report for a reader: one page that loads nothing from elsewhere, and a summary for the terminal.

Whatever comes from the data is escaped, and its control characters (bidirectional ones too) are written out.
"""

from typing import Any

from jinja2 import Environment, StrictUndefined

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


def page(report: dict[str, Any], title: str) -> str:
    """The report of ``inspection.inspect`` as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              finalize=_visible)
    environment.filters |= {"number": number, "percent": percent, "bars": bars}
    environment.globals |= {"turn_key_told": turn_key_told, "grouped": grouped}
    others = {key.replace("_", " "): value for key, value in report.items() if key not in SHOWN and value}
    columns = list(dict.fromkeys(key for counts in report["sources"].values() for key in counts))
    return environment.from_string(PAGE).render(
        report=report, title=title, meanings=SETS, others=others, columns=columns, alarms=alarms(report),
        quantiles=list(QUANTILES), width=WIDTH, height=HEIGHT).lstrip()


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


# ---- the page


PAGE = """\
{% macro text(one, role=none) %}
<div class="text">{% if role %}<b>{{ role }}</b>{% endif %}
<pre dir="auto">{{ one.text }}</pre>
{% if one.characters > one.text|length %}
<p class="note">… cut; {{ one.characters|number }} characters in all</p>
{% endif %}
</div>
{% endmacro %}

{% macro places(found, count) %}
{% for place in found %}<code>{{ place }}</code>{{ ", " if not loop.last }}{% endfor %}{{
  ", …" if count > found|length }}
{% endmacro %}

{% macro counts(title, values) %}
{% if values %}
<p><b>{{ title }}</b>
{% for value, count in values.items() %}
{{ value }}: {{ count|number }}{{ ", " if not loop.last }}
{% endfor %}
</p>
{% endif %}
{% endmacro %}

{% macro figure(label, one) %}
{% if one %}
<figure><figcaption><b>{{ label }}</b> median {{ one.median|number }}, mean {{ one.mean|number }}</figcaption>
<svg viewBox="0 0 {{ width }} {{ height }}" role="img" aria-label="histogram: {{ label }}" preserveAspectRatio="none">
{% for bar in one.histogram|bars %}
<rect x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"><title>{{
  bar.told }}</title></rect>
{% endfor %}
</svg>
<div class="axis"><span>{{ one.histogram.edges[0]|number }}</span>
<span>{{ one.histogram.edges[-1]|number }}{{ " and more" if one.histogram.open }}</span></div>
<table><tr>{% for name in quantiles %}<th>{{ name }}</th>{% endfor %}</tr>
<tr>{% for name in quantiles %}<td>{{ one[name]|number }}</td>{% endfor %}</tr></table>
{% set out = one.outliers %}
{% if out.count %}
<p class="note">{{ out.count|number }} outliers ({{ out.share|percent }}) below {{ out.below|number }}
or above {{ out.above|number }}:
{% for one in out.first %}
<code>{{ one.at }}</code> ({{ one.value|number }}){{ ", " if not loop.last }}
{% endfor %}
{{ "…" if out.count > out.first|length }}</p>
{% else %}
<p class="note">no outliers</p>
{% endif %}
</figure>
{% endif %}
{% endmacro %}

{% macro labels(found) %}
{% set bias = found.length_bias %}
{% if bias.longer + bias.shorter %}
<p>The longer response is preferred in <b>{{ bias.share|percent }}</b> of {{
  (bias.longer + bias.shorter)|number }} ordered
pairs of unequal length (in characters); {{ bias.equal|number }} pairs are of equal length.</p>
{% endif %}
{% if found.ties %}
<div class="wide"><table>
<tr><th>k</th><th>records</th><th>pairs</th><th>tied pairs</th><th>records all tied</th></tr>
{% for k, row in found.ties.items() %}
<tr><td class="left">{{ k }}</td><td>{{ row.records|number }}</td><td>{{ row.pairs|number }}</td>
<td>{{ row.tied_pairs|number }}</td><td>{{ row.all_tied|number }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% endmacro %}
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">
<style>
:root { --back: #fff; --fore: #1c2024; --soft: #5b6570; --line: #d8dde2; --panel: #f4f6f8;
  --bar: #3b6fb6; --alarm: #a32020 }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --fore: #e4e7ea; --soft: #9aa5b0; --line: #343b42;
  --panel: #1d2226; --bar: #7aa7e6; --alarm: #ff8f85 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 68rem; background: var(--back); color: var(--fore);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--line) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal }
th { font-weight: 600; color: var(--soft) } th:first-child, th.left, td.left { text-align: left }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem }
figure { margin: 0; padding: .8rem; background: var(--panel); border-radius: .4rem; overflow-x: auto }
figure table { width: 100%; font-size: .8rem }
figure th, figure td, figure th:first-child { padding: .1rem .2rem; text-align: right }
svg { display: block; width: 100%; height: 3.5rem } rect { fill: var(--bar) }
.axis { display: flex; justify-content: space-between } .axis, .note { font-size: .85rem; color: var(--soft) }
.note { margin: .3rem 0 } .alarm { color: var(--alarm); font-weight: 600 }
.text { margin: .4rem 0; padding-left: .6rem; border-left: 3px solid var(--line) }
pre { margin: 0; white-space: pre-wrap; font: 14px/1.45 ui-monospace, monospace; unicode-bidi: isolate }
details { margin: .8rem 0; padding: .6rem; background: var(--panel); border-radius: .4rem } summary { cursor: pointer }
</style></head>
<body>
<h1>{{ title }}</h1>
<p>{{ report.read|number }} rows read, {{ report.kept|number }} records kept.</p>
{{ counts("kinds", report.kinds) }}
{% for alarm in alarms %}
<p class="alarm">{{ alarm }}</p>
{% else %}
<p>No prompt, and no near-duplicate of one, is on both sides of the split.</p>
{% endfor %}

<h2>Reading</h2>
{% if report.dropped %}
<div class="wide"><table>
<tr><th>dropped</th><th>rows</th><th class="left">first of them</th></tr>
{% for reason, count in report.dropped.items() %}
<tr><td class="left">{{ reason }}</td><td>{{ count|number }}</td>
<td class="left">{{ places(report.lines.get(reason, []), count) }}</td></tr>
{% endfor %}
</table></div>
{% else %}
<p>Nothing was dropped.</p>
{% endif %}
<ul>
{% for path, layout in grouped(report.layouts).items() %}
<li><code>{{ path }}</code> read as {{ layout }}</li>
{% endfor %}
{% for path, names in grouped(report.ignored_columns).items() %}
<li><code>{{ path }}</code>: columns not read: {{ names|join(", ") }}</li>
{% endfor %}
{% for name, count in report.filtered.items() %}
<li>{{ count|number }} rows filtered: {{ name }}</li>
{% endfor %}
{% for what, count in report.skipped.items() %}
<li>skipped {{ count|number }} times: {{ what }}</li>
{% endfor %}
{% for name, count in report.turn_keys.items() %}
<li>{{ turn_key_told(name, count) }}</li>
{% endfor %}
{% for name, source in report.fallbacks.items() %}
<li>{{ name }} made from: {{ source }}</li>
{% endfor %}
{% for name, value in others.items() %}
<li>{{ name }}: {{ value|string }}</li>
{% endfor %}
</ul>
{% if report.sources %}
<h2>Sources</h2>
<div class="wide"><table>
<tr><th>source</th>{% for column in columns %}<th>{{ column|replace("_", " ") }}</th>{% endfor %}</tr>
{% for name, row in report.sources.items() %}
<tr><td class="left">{{ name }}</td>{% for column in columns %}<td>{{ row.get(column)|number }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}

<h2>Sets</h2>
<div class="wide"><table>
<tr><th>set</th><th>records</th><th>prompts</th><th>repeated records</th><th class="left">what it is</th></tr>
{% for name, count in report.sets.items() %}
{% set found = report.statistics.get(name, {"distinct_prompts": 0, "repeated_records": 0}) %}
<tr><td class="left">{{ name }}</td><td>{{ count|number }}</td><td>{{ found.distinct_prompts|number }}</td>
<td>{{ found.repeated_records|number }}</td><td class="left">{{ meanings[name] }}</td></tr>
{% endfor %}
</table></div>

<h2>Both sides of the split</h2>
{% set split = report.split %}{% set near = report.near_duplicates %}
<p>{{ split.training_prompts|number }} prompts are trained on, {{ split.heldout_prompts|number }} are held out;
{{ split.shared_prompts|number }} are both. {{ places(split.lines, split.shared_prompts) }}</p>
{% for kind, places in report.conversations.lines.items() if places %}
<p>{{ kind|replace("_", " ") }}: {% for place in places %}<code>{{ place }}</code>{{
  ", " if not loop.last }}{% endfor %}</p>
{% endfor %}
<p>{{ near.count|number }} of {{ near.heldout_prompts|number }} held-out prompts that are not trained on have a
near-duplicate that is: at least {{ near.threshold|percent }} of both prompts' pairs of neighbouring words are shared
(Jaccard similarity, exact for {{ near.comparisons|number }} candidates).</p>
{% for pair in near.first %}
<details><summary>{{ "%.2f"|format(pair.jaccard) }}: <code>{{ pair.training.at }}</code> and
<code>{{ pair.heldout.at }}</code></summary>
{{ text(pair.training, "training") }}{{ text(pair.heldout, "held out") }}</details>
{% endfor %}

{% for name, found in report.statistics.items() %}
<h2>{{ name }}</h2>
{{ counts("responses of a record (k: records)", found.responses_per_record) }}
{{ counts("records of a prompt (number: prompts)", found.records_per_prompt) }}
{{ counts("by origin", found.origins) }}
{% if name == "choices" %}
{{ counts("right options (number: questions)", found.right_options) }}
{{ counts("place of the right option (from 0: questions)", found.position_of_right) }}
{{ counts("groups", found.groups) }}
{% else %}
{{ labels(found) }}
{% endif %}
<div class="figures">
{% for side in ("prompt", "response") %}{% for unit in ("words", "characters") %}
{{ figure(side ~ ", " ~ unit, found[side][unit]) }}
{% endfor %}{% endfor %}
{{ figure("score margin within a record", found.get("margin")) }}
</div>
{% for example in found.examples %}
<details><summary>example <code>{{ example.at }}</code></summary>
{% for turn in example.prompt %}{{ text(turn, turn.role or "prompt") }}{% endfor %}
{% for response in example.responses %}
{{ text(response, "response" if response.score is none else "response, score " ~ response.score|number) }}
{% endfor %}
{% if example.responses_in_all > example.responses|length %}
<p class="note">… {{ example.responses_in_all|number }} responses in all</p>
{% endif %}
</details>
{% endfor %}
{% endfor %}
<p class="note">Words are what white space separates; a Chinese, Japanese or Korean character counts as one.
Outliers lie more than three interquartile ranges below the 25&nbsp;% or above the 75&nbsp;% quantile.</p>
</body></html>
"""
