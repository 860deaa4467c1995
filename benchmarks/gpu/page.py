"""The measurements of a CUDA device as one Markdown page, beside figures that others have published."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable

from benchmarks.gpu import journal
from benchmarks.gpu.flops import GOAL

GIB = 1 << 30
TITLE = "# On a GPU\n"
COMMAND = "    .ci/gpu                   # a CUDA device, eight minutes at most, no network\n"
NOT_MEASURED = f"""{TITLE}
Not measured: no committed figure of this project comes from a GPU until this command has run on one and its results
replace this page.

{COMMAND}
`.ci/gpu --fetch FOLDER` collects beforehand, where there is a network, the wheels that a machine with Python 3.12 and
PyTorch may lack; `.ci/gpu --wheels FOLDER` installs from there what is missing. `.ci/gpu --dry` takes the same steps
with a tiny model on a CPU: it shows that the script runs, and its figures mean nothing.
"""
PUBLISHED = (
    ("torchtune, QLoRA of Llama 3.1 8B, RTX 4090: 2 rows packed to 2,048 tokens, torch.compile",
     "2,413 tokens/s, 7.4 GiB", 'README of pytorch/torchtune, "Memory and training speed"'),
    ("Unsloth, DPO with QLoRA against TRL on the same device", "1.9 times as fast",
     "Unsloth's benchmark table with TRL, Hugging Face's blog"),
)


def page(folder: Path) -> str:
    """Of the journals in ``folder``; without any it says that nothing was measured."""
    found = journal.read(folder)
    if not found:
        return NOT_MEASURED + "\n" + _published()
    tables = (_rates, _steps, _iterations, _sampling, _fits)
    sections = [TITLE, _origin(found), _parts(found), *(section(found) for section in tables), _published()]
    return "\n".join(text for text in sections if text)


def _measured(found: dict[str, dict], what: str) -> list[dict[str, Any]]:
    return [one for part in found.values() for one in part["measured"] if one["what"].startswith(what)]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *map(list, rows))) + "\n"


def _published() -> str:
    return ("## What others have published\n\n"
            "Other devices, lengths and software: to stand beside, not to subtract.\n\n"
            + table(("what", "figure", "source"), PUBLISHED))


def _origin(found: dict[str, dict]) -> str:
    one = next((part for part in found.values() if "device" in part), None)
    if one is None:
        return ""
    bases = _measured(found, "base")
    base = ""
    if bases:
        shape, precision, why = bases[0]["shape"], bases[0]["precision"], bases[0]["instead_of_nf4"]
        instead = f" (not in 4 bits: {why})" if why else ""
        base = (f" A Llama of random weights, {shape['layers']} layers × {shape['hidden']} wide, vocabulary "
                f"{shape['vocabulary']:,}, in {precision}{instead}, LoRA of rank 16 on all linear layers, gradient "
                "checkpointing.")
    versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
    return f"{one['device']}; commit {one['commit']}; {versions}.{base}\n\nMade again by:\n\n{COMMAND}"


def _parts(found: dict[str, dict]) -> str:
    return table(("part", "status", "seconds", "note"),
                 ((name, part.get("status", ""), f"{part.get('seconds', float('nan')):.0f}",
                   str(part.get("summary") or part.get("error") or "")) for name, part in found.items()))


def _rates(found: dict[str, dict]) -> str:
    rates = _measured(found, "device")
    if not rates:
        return ""
    named = rates[0]["peak_tflops_by_name"]
    told = f"dense bf16 peak by its name {named:.0f} TFLOP/s; " if named else "its name says no peak; "
    best = max(one["product_tflops"] for one in rates)
    return f"The device: {told}a large bf16 product reached {best:.3g} TFLOP/s.\n"


def _share(one: dict[str, Any]) -> str:
    if "mfu" in one:
        return f"{one['mfu']:.1%} ({one['of_goal']:.1%} of the goal)"
    return f"{one['of_measured_product']:.1%} of the product above" if "of_measured_product" in one else "-"


def _memory(value: int | None) -> str:
    return "-" if value is None else f"{value / GIB:.2f} GiB"


def _steps(found: dict[str, dict]) -> str:
    last = {one["what"]: one for name in ("SFT step", "DPO step") for one in _measured(found, name)}
    if not last:
        return ""
    rows = []
    for name, one in last.items():
        size = one["lengths"]
        rows.append((name, f"{size['prompt']} + {size['response']}", f"{size['batch']} in passes of {size['micro']}",
                     f"{sum(one['seconds']) / len(one['seconds']):.3g}", f"{one['tokens_per_second']:,.0f}",
                     _memory(one["peak_bytes"]), _share(one)))
    return ("## Training steps\n\nTokens are those of the rows: a pair's prompt counts once. Utilisation: operations "
            "that the model needs (forward; gradients of activations; adapters; attention over visible pairs), nothing "
            f"recomputed, divided by time and the dense bf16 peak; the goal is {GOAL:.0%} of the peak. The first step "
            "is not counted.\n\n"
            + table(("", "prompt + response", "rows", "s a step", "tokens/s", "peak memory", "utilisation"), rows))


def _iterations(found: dict[str, dict]) -> str:
    rows = []
    for one in _measured(found, "PPO iteration"):
        size = one["lengths"]
        rows.append((str(one["iteration"]), f"{size['prompt']} + {size['response']}", str(size["batch"]),
                     *(f"{one['seconds'][part]:.3g}" for part in ("rollout", "score", "update")),
                     f"{one['sampled_per_second']:,.0f}", f"{one['updated_tokens_per_second']:,.0f}",
                     _memory(one["peak_bytes"]), _share(one)))
    return rows and ("## PPO iterations\n\nFour roles on one base; two inner epochs of policy and critic.\n\n" + table(
        ("iteration", "prompt + response", "prompts", "rollout, s", "scores, s", "update, s", "sampled tokens/s",
         "updated tokens/s", "peak memory", "utilisation of the update"), rows))


def _sampling(found: dict[str, dict]) -> str:
    rows = [(one["what"].removeprefix("sampling, "), str(one["lengths"]["batch"]), str(one["lengths"]["response"]),
             f"{one['tokens_per_second']:,.0f}", _memory(one["peak_bytes"]))
            for one in _measured(found, "sampling") if "tokens_per_second" in one]
    same = "".join(f"\nGreedy answers agree on {one['same_first_tokens']:.1%} of their tokens before the first "
                   "difference.\n" for one in _measured(found, "sampling, agreement"))
    return rows and "## Sampling\n\n" + table(("", "sequences", "new tokens", "tokens/s", "peak memory"), rows) + same


def _fits(found: dict[str, dict]) -> str:
    lines = _measured(found, "DPO pairs that fit")
    if not lines:
        return ""
    limits = list(lines[0]["largest_by_line"])
    confirmed = {(one["tokens"], one["limit"]): one["rows"] for one in _measured(found, "confirmed")}

    def entry(line: dict[str, Any], name: str) -> str:
        ran = confirmed.get((line["tokens"], name))
        fits = line["largest_by_line"][name]
        return ("-" if fits is None else str(fits)) + ("" if ran is None else f" (ran with {ran})")

    return ("## DPO pairs of one pass that fit\n\nPrompt and each response half of the tokens. By the line through the "
            "measured peaks of a few rows, a GiB of the card left to CUDA; where it says so, run under that limit.\n\n"
            + table(("tokens of prompt + response", *limits),
                    ((str(line["tokens"]), *(entry(line, name) for name in limits)) for line in lines)))
