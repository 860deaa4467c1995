"""What a run or a merge hands over: weights at the top of a folder, with the tokenizer, the chat template and the end
tokens that training used, and a model card.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..data.records.record import TRANSCRIPT
from ..data.template import Template
from ..models.adapters import CONFIG
from ..models.export import HEAD, WEIGHTS
from ..support.errors import ConfigError
from .beside import Finished, fenced
from .results import whole, write_json

BOS = "{{ bos_token }}"
WIDTH = 100  # columns of a card's answers


def export(stage: Path, folder: Path, card: str, template: Template, ends: Sequence[int] = (),
           transcripts: bool = False) -> None:
    """Copy a stage's weights to the top of a run's folder, with what text is read and answered by, and a model card;
    ends, transcripts: see ``hand_over``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in stage.iterdir():
        if path.name in (*WEIGHTS, HEAD, CONFIG, "config.json", "generation_config.json"):
            with whole(folder / path.name) as file:
                shutil.copyfile(path, file)
    with whole(folder / "README.md") as file:
        file.write_text(card, encoding="utf-8")
    hand_over(template, folder, ends, transcripts)


def hand_over(template: Template, folder: Path, ends: Sequence[int] = (), transcripts: bool = False) -> None:
    """Write beside weights what they were trained with: the tokenizer with its chat template, and the tokens that end
    an answer, as transformers reads them (``generation_config.json``, and ``config.json`` where there is one).
    ends: further ones, at which the base stops of its own. transcripts: it read conversations without a chat template;
    the form that they were written in is handed over as one.
    """
    tokenizer, ends = template.tokenizer, sorted({*template.stop_ids, *ends})
    written = tokenizer.chat_template
    if transcripts and not template.chat:
        tokenizer.chat_template = BOS * bool(template.bos) + TRANSCRIPT
    elif template.chat and isinstance(written, str) and _lacks_bos(template):
        tokenizer.chat_template = BOS + written
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = written
    end = ends[0] if len(ends) == 1 else ends
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    _settle(folder / "generation_config.json", {"eos_token_id": end, "pad_token_id": padding})
    if (folder / "config.json").is_file():
        _settle(folder / "config.json", {"eos_token_id": end} if tokenizer.pad_token_id is None else
                {"eos_token_id": end, "pad_token_id": padding})


def _lacks_bos(template: Template) -> bool:
    """Whether a prompt begins with a BOS that the tokenizer sets and the chat template does not write: transformers
    would read a conversation without it."""
    question = [{"role": "user", "content": "x"}]
    rendered = template.tokenizer(template.prompt_text(question), add_special_tokens=False).input_ids
    return template.prompt_ids(question) == [*template.bos, *rendered] != rendered


def _settle(path: Path, values: dict) -> None:
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**told, **values})


def own_template(folder: Path, asked: str | None) -> str | None:
    """The chat template that a result was trained with, as a path; ``asked`` where its folder has no tokenizer to tell.

    ConfigError where ``asked`` is another one: the model would read what it was not trained on.
    """
    settings, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    if not settings.is_file():
        return asked
    if not own.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("chat_template"):
        raise ConfigError(f"adapter: found a chat template inside {settings}; expected it in {own.name} beside it; "
                          f"fix: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})")
    text = own.read_text(encoding="utf-8") if own.is_file() else None
    given = None if asked is None else Path(asked).read_text(encoding="utf-8")
    if given is not None and text not in (given, BOS + given):
        trained = own.name if own.is_file() else "none"
        raise ConfigError(f"model.chat_template: found {asked}, which is not the chat template that {folder} was "
                          f"trained with ({trained}); expected that one; fix: leave model.chat_template out")
    return None if text is None else str(own)


def _plain(value) -> str:
    """One line of text for a page that renders HTML; a password inside an address is masked."""
    return html.escape(re.sub(r"://[^/@\s]+@", "://***@", " ".join(str(value).split())), quote=False)


USE = """
## Use

```python
from transformers import AutoTokenizer, GenerationConfig
from {library} import {kind}

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)  # with the chat template of the training, where it had one
model = {kind}.from_pretrained(folder)
model.generation_config = GenerationConfig.from_pretrained(folder)  # the tokens that end an answer
```
"""
SERVE_ADAPTER = """
With vLLM, from this folder (`--max-lora-rank` too where the adapter's rank is above 16):

    vllm serve {base} --enable-lora --lora-modules mine=. --tokenizer . --generation-config .

`python run.py task=merge adapter=FOLDER` makes a model of its own of it.
"""
SERVE_WHOLE = """
With vLLM, or as a GGUF file by llama.cpp, from this folder:

    vllm serve .
    python llama.cpp/convert_hf_to_gguf.py . --outfile model.gguf
"""


def use(base: str, peft: bool) -> str:
    """How a model that answers is loaded and served, from its own folder; base: an adapter's folder or hub id."""
    library, kind = ("peft", "AutoPeftModelForCausalLM") if peft else ("transformers", "AutoModelForCausalLM")
    return USE.format(library=library, kind=kind) + (SERVE_ADAPTER.format(base=_plain(base)) if peft else SERVE_WHOLE)


def merged_card(base: str, source: Path, precision: str) -> str:
    """The model card of a merge: what the adapter's own card says, and how a whole model is loaded."""
    own = source / "README.md"
    told = own.read_text(encoding="utf-8").partition("\n---\n")[2].partition("\n## Use\n")[0] if own.is_file() else ""
    front = ["---", f"base_model: {json.dumps(_plain(base))}", "tags: [alignment]", "---"]
    lines = ["", f"An adapter of {_plain(base)} merged into its weights, in {precision}.", "", told.strip()]
    return "\n".join([*front, *lines]) + "\n" + use(base, peft=False)


def model_card(base: str, at: str, cite: str, data: dict, run: Finished, peft: bool, answers: bool) -> str:
    """A Hugging Face model card: what it is, what it was trained from and on, what was measured of it and of its start,
    how one that answers is loaded. base: its name; at: its folder, or its hub id."""
    front = ["---", f"base_model: {json.dumps(_plain(base))}", *(["library_name: peft"] if peft else []),
             "tags: [alignment, " + run.method + "]", "---", ""]
    lines = [*front, f"# {run.method} on {_plain(base)}", "", cite.strip(), "", "## Data", ""]
    lines += [f"- {key}: {_plain(value)}" for key, value in data.items()]
    lines += ["", "## Measured", "", f"| metric | mean | 95% interval | start ({run.start}) | 95% interval | n |",
              "| --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {name} | {_measured(value)} | {_measured(run.before.get(name))} | {value['n']} |"
              for name, value in run.figures.items()]
    if run.answers:
        told = f"The first prompts of the evaluation, answered by the start ({run.start}) and by this model."
        lines += ["", "## Answers", "", told, "", *fenced(run.answer_lines(WIDTH))]
    return "\n".join(lines) + "\n" + (use(at, peft) if answers else "")


def _measured(value: dict | None) -> str:
    return " | " if value is None else f"{value['mean']:.4g} | {value['low']:.4g} … {value['high']:.4g}"
