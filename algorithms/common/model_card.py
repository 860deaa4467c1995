"""A run's export: its stage's weights at the top of its folder, with a model card."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

from .export import HEAD, WEIGHTS
from .results import whole


def export(stage: Path, folder: Path, card: str) -> None:
    """Copy a stage's weights to the top of a run's folder, with a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in stage.iterdir():
        if path.name in (*WEIGHTS, HEAD, "adapter_config.json", "config.json", "generation_config.json"):
            with whole(folder / path.name) as file:
                shutil.copyfile(path, file)
    with whole(folder / "README.md") as file:
        file.write_text(card, encoding="utf-8")


def _plain(value) -> str:
    """One line of text for a page that renders HTML; a password inside an address is masked."""
    return html.escape(re.sub(r"://[^/@\s]+@", "://***@", " ".join(str(value).split())), quote=False)


def model_card(base: str, method: str, cite: str, data: dict, results: dict, peft: bool) -> str:
    """A Hugging Face model card: what it is, what it was trained from and on, what was measured."""
    front = ["---", f"base_model: {json.dumps(_plain(base))}", *(["library_name: peft"] if peft else []),
             "tags: [alignment, " + method + "]", "---", ""]
    lines = [*front, f"# {method} on {_plain(base)}", "", cite.strip(), "", "## Data", ""]
    lines += [f"- {key}: {_plain(value)}" for key, value in data.items()]
    lines += ["", "## Measured", "", "| metric | mean | 95% interval | n |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {value['mean']:.4g} | {value['low']:.4g} … {value['high']:.4g} | {value['n']} |"
              for name, value in results.items()]
    return "\n".join(lines) + "\n"
