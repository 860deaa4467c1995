"""What ``python run.py task=…`` can do: run, inspect, chat, merge. Each takes the config and the run's folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ..support.errors import ConfigError, DataError
from ..support.secrets import Mask
from ..support.store import Store
from ..support.terminal import IN_SWEEPS, is_short, printable, show
from . import beside, jobs, results, trial
from .own_model import adopt
from .settings import Settings, StagesConfig, build, seed, settings

if TYPE_CHECKING:
    from ..data.records import DataSets
    from ..models.model import ModelConfig
    from .auditing import Auditor
    from .stages import Bench

log = logging.getLogger(__name__)


def run(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Train the algorithm and the stages it stands on, evaluate, write the results."""
    chosen, mask = settings(config), Mask(config)
    from ..support.memory import released
    from ..support.phases import shown

    with released(), shown(chosen.trainer.progress):
        _run(chosen, mask, config, name, folder, overrides)


def _run(chosen: Settings, mask: Mask, config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    from ..evaluation import overlap
    from ..evaluation.evaluate import data_answers
    from ..evaluation.metrics import figure_rows, figures
    from ..models.export import HEAD
    from ..models.model import end_ids
    from . import budgets
    from .agenda import foretell, stages_of
    from .auditing import remarks, unjudged
    from .hand_over import export, model_card

    store = store_of(chosen.stages)
    log.info("stages: %s (safe to delete)", store.folder)
    if chosen.trial:
        log.warning("%s", trial.WARNING)
    head = results.header(name, chosen.seed, mask, overrides)
    bench, auditor = opened(chosen, mask, store, folder)
    if chosen.labels is not None:
        log.info("labels: %s", chosen.labels.foretell(bench.data))
        bench.relabel(chosen.labels.labelled(bench))
        bench.checked(chosen.algorithm)
    data = bench.data
    stages = stages_of(bench, chosen.algorithm, chosen.recipe, name, auditor)
    foretell(stages)
    bench.number(stages)
    recipe, bought = budgets.as_steps(bench, chosen.algorithm, chosen.recipe, chosen.budget, name)
    if bought:
        if chosen.trial:
            recipe = dataclasses.replace(recipe, steps=min(recipe.steps, chosen.recipe.steps))
        head["config"]["recipe"]["steps"] = recipe.steps
        bench.number(stages_of(bench, chosen.algorithm, recipe, name, auditor))
    stage = bench.train(chosen.algorithm, recipe, name)
    evaluation = bench.evaluate(chosen.algorithm, recipe, name)
    start, baseline = bench.start(chosen.algorithm), bench.baseline(chosen.algorithm)
    if audits := auditor.applies and chosen.algorithm.role == "policy":
        evaluation, baseline = auditor.judged(evaluation, name), auditor.judged(baseline, "the start")
    preferred = data_answers(data, chosen.eval) if len(evaluation.samples) else {}
    if compares := chosen.eval.overlap and chosen.algorithm.role == "policy":
        evaluation, baseline = (one and overlap.with_overlap(one, preferred) for one in (evaluation, baseline))
    found = figures(chosen.algorithm, evaluation, baseline, start.against)
    if audits and (agreement := auditor.agreement()):
        found[agreement.name] = agreement
    said = [*([trial.WARNING] if chosen.trial else []), *remarks(found),
            *([] if is_short() else unjudged(found))]  # in a sweep the table says it
    for remark in said if is_short() else ():  # else they stand beside the figures
        log.warning("%s", remark)
    began = {} if baseline is None else figures(start.algorithm, baseline, None)
    shown, before = beside.told(found), beside.told(began)
    if alone := [key for key in found if key not in shown]:
        log.info("of one unit, which has no interval, so in figures.parquet alone: %s", ", ".join(alone))
    fit = json.loads((stage / "fit.json").read_text(encoding="utf-8"))
    report = data.report.to_dict()
    report["truncated"] = fit["truncated"]
    result = {**head, "data": report, "evaluation": shown,
              "identity": bench.identity(chosen.algorithm, recipe),
              "start": {"kind": start.kind, "identity": start.identity, "stage": start.stage, "evaluation": before},
              "samples": chosen.eval.samples,
              "cost": budgets.priced(bench.cost(chosen.algorithm, recipe), chosen.budget.price_per_hour),
              "budget": budgets.told(chosen.budget), "calibration": bought and dataclasses.asdict(bought),
              "auditor": auditor.told() if audits else None,
              "overlap": overlap.told() if compares else None,
              "labels": data.labelling and data.labelling.told}
    results.write_samples(folder, evaluation.samples)
    if len(evaluation.samples):
        results.write_references(folder, None if baseline is None else baseline.samples, preferred)
    results.write_figures(folder, figure_rows(found.values()))
    results.write_figures(folder, figure_rows(began.values()), results.START_FIGURES)
    results.copy_metrics(stage, folder)
    told = {"source": config.data.get("path") or config.data.get("name") or str(config.data._target_),
            "records": fit["records"], "seed": chosen.seed, "commit": head["commit"]}
    if chosen.trial:
        told[trial.MARK] = trial.WARNING.removeprefix(f"{trial.MARK}: ")
    if chosen.model.template_arguments:  # in no file of the tokenizer: whoever asks the model has to give them too
        told["model.template_arguments"] = json.dumps(chosen.model.template_arguments)
    answers = [] if baseline is None else beside.first_answers(evaluation.samples, baseline.samples)
    ended = beside.Finished(name, shown, start.kind, before, answers, said)
    cite = sys.modules[type(chosen.algorithm).__module__].__doc__ or ""
    card = model_card(chosen.model.name, chosen.model.folder(), cite, told, ended,
                      peft=chosen.model.lora is not None, answers=not (stage / HEAD).is_file())
    talked = any(sets.conversations().any() for sets in (data.preferences, data.demonstrations, data.prompts))
    export(stage, folder, mask.text(card), bench.template, end_ids(chosen.model), transcripts=talked)
    results.write_json(folder / "result.json", mask.hide(result))
    text = mask.text(ended.text(shutil.get_terminal_size((100, 40)).columns))
    if is_short():  # the table at the sweep's end has the figures
        log.info("%s", text)
        log.info("%s; results: %s", ended.line(jobs.headline(chosen.objective, shown)), folder, extra=IN_SWEEPS)
    else:
        show(f"{text}\n\nresults: {folder}")


def opened(chosen: Settings, mask: Mask, store: Store, folder: Path) -> tuple[Bench, Auditor]:
    """The bench of a run, and its auditor; ConfigError or DataError for what would be refused once hours were spent."""
    from ..algorithm import Algorithm
    from ..evaluation import overlap
    from ..evaluation.evaluate import data_answers, evaluated_prompts
    from .auditing import Auditor
    from .stages import Bench

    data = load(chosen.data, chosen.seed, folder, mask)
    if chosen.labels is not None:
        data = chosen.labels.asked(data)
    bench = Bench(chosen.model, chosen.trainer, chosen.eval, data, chosen.seed, store, chosen.reward, folder, mask.hide)
    # what cannot be trained is refused before its inputs are
    auditor = Auditor(bench, chosen.auditor, chosen.auditor_half)
    auditor.check()
    policy = chosen.algorithm.role == "policy"
    own_figures = type(chosen.algorithm).figures is not Algorithm.figures or data.measure or data.choices is not None
    jobs.check_objective(chosen.objective, data.gold is not None, auditor.applies and policy,
                         policy and (chosen.eval.proxy or chosen.algorithm.uses_reward),
                         bool(own_figures) or chosen.eval.overlap)
    if chosen.eval.overlap and policy:
        overlap.check_installed()
        overlap.check_answers(data_answers(data, chosen.eval), len(evaluated_prompts(data, chosen.eval)))
    _telling_bad_rows(lambda: bench.check(chosen.algorithm, auditor.readings()), folder, mask)
    return bench, auditor


def load(source: Any, number: int, folder: Path, mask: Mask) -> DataSets:
    """A data source's sets; bad_rows.jsonl in the run's folder has all that cannot be used, also where they end it."""
    return _telling_bad_rows(lambda: source.load(number), folder, mask)


def _telling_bad_rows(read: Callable[[], DataSets], folder: Path, mask: Mask) -> DataSets:
    try:
        data = read()
    except DataError as error:
        if path := results.write_bad_rows(folder, error.refused, mask):
            raise DataError(f"{error}\nall of them: {path}") from None
        raise
    if path := results.write_bad_rows(folder, data.report.refused, mask):
        log.warning("all rows that cannot be used: %s", path)
    return data


def store_of(stages: StagesConfig) -> Store:
    """The store of kept stages; the data's cache lies beside the default one, or in the one that was asked for."""
    from ..data import records

    store = Store(stages.folder)
    records.set_cache_folder(None if stages.folder is None else store.folder / "data")
    return store


def inspect(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Read and clean the data, print and write what was found (data.json, data.html), and which methods it can train;
    loads no model. Where one is named, its tokenizer counts and a row is shown as it is learned."""
    from ..data.records.inspection import inspect
    from ..data.records.inspection_page import page, terminal

    parts, mask = build(config, ("data", "stages")), Mask(config)
    store = store_of(parts["stages"])
    data = load(parts["data"], seed(config), folder, mask)
    report = mask.hide(inspect(data, mask.text))
    with results.whole(folder / "data.html") as file:
        file.write_text(page(report, "Data report", results.heading(mask, overrides)), encoding="utf-8")
    results.write_json(folder / "data.json", report)
    print(f"{terminal(report)}\n", flush=True)
    more = _conclusions(config, data, store, folder, mask, any(re.match(r"\+*model[=.]", one) for one in overrides))
    results.write_json(folder / "data.json", {**report, **mask.hide(more)})
    print(f"report: {folder / 'data.html'}")


def _conclusions(config: DictConfig, data: DataSets, store: Store, folder: Path, mask: Mask, counts: bool
                 ) -> dict[str, Any]:
    """Print which methods the data can train and, where asked for, what the model's tokenizer makes of it."""
    from . import tokens, trainable
    from .stages import Bench

    parts = build(config, ("algorithm", "model", "trainer", "eval", "reward"))
    bench = Bench(parts["model"], parts["trainer"], parts["eval"], data, seed(config), store, parts["reward"], folder,
                  mask.hide)
    found = trainable.verdicts(config, bench, trainable.folders())
    lines, more = trainable.told(found), {"methods": [dataclasses.asdict(one) for one in found]}
    if counts:
        from ..data.usability import Reading, usable

        sets = {key: records for key in ("preferences", "demonstrations", "prompts", "evaluation")
                if len(records := getattr(data, key))}
        _telling_bad_rows(lambda: usable(data, [Reading(bench.template, key) for key in sets]), folder, mask)
        row = mask.text(tokens.rendered(bench, parts["algorithm"]) or "")   # whole: half a secret is not found
        more |= {"tokens": tokens.counted(bench, sets), "row": row}
        lines += ["", *tokens.told(more["tokens"])]
        if row:
            lines += ["", f"the first record as {config.algorithm._target_.rpartition('.')[2]} reads it, what is "
                      f"learned between {tokens.OPEN} and {tokens.CLOSE}:", *tokens.shown(row).split("\n")]
    print("".join(f"  {printable(mask.text(line))}\n" for line in lines), flush=True)
    return more


def adapter_of(config: DictConfig, key: str = "adapter") -> tuple[Path, ModelConfig]:
    """The folder named by ``adapter=…`` (or another key), which holds weights, and the model they belong to: with the
    adapter's own settings, and the base's revision and the chat template that it was trained with."""
    from ..models.adapters import CONFIG, SavedLora, settings_of
    from ..models.export import HEAD, weights_file
    from .hand_over import own_template

    if not config[key] or not isinstance(config[key], str):
        raise ConfigError(f"{key}: found {config[key]!r}; expected the folder of a run; fix: {key}=outputs/…")
    folder, model = Path(config[key]), build(config, ("model",))["model"]
    weights_file(folder)
    if (folder / HEAD).is_file():
        raise ConfigError(f"adapter: found {HEAD} in {folder}, a model that scores; expected one that answers; "
                          "fix: adapter=… of a policy's run")
    model = dataclasses.replace(model, chat_template=own_template(folder, model.chat_template))
    if not (folder / CONFIG).is_file():  # a whole model
        return folder, dataclasses.replace(model, lora=None)
    told = settings_of(folder)
    base, revision = told.get("base_model_name_or_path"), told.get("revision")
    elsewhere = base is None or Path(base).is_absolute() and not Path(base).exists()  # trained on another machine
    if base != model.folder() and not elsewhere:
        raise ConfigError(f"adapter: found an adapter of {base}; expected one of model.name={model.name}; "
                          f"fix: model.name={base}, and the model=… it was trained with")
    if None not in (revision, model.revision) and revision != model.revision:
        raise ConfigError(f"adapter: found an adapter of revision {revision}; expected one of "
                          f"model.revision={model.revision}; fix: model.revision={revision}")
    lora = SavedLora(told["r"], told["lora_alpha"], folder=str(folder))
    return folder, dataclasses.replace(model, lora=lora, revision=model.revision or revision)


def _named_by(config: DictConfig, key: str) -> tuple[Path, ModelConfig]:
    try:
        return adapter_of(config, key)
    except ConfigError as error:
        raise ConfigError(str(error).replace("adapter: ", f"{key}: ", 1).replace("adapter=", f"{key}=")) from None


def chat(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Talk in the terminal to a result, or where ``adapter`` is null to the base; with ``beside`` to another result at
    the same time."""
    if named := next((config[key] for key in ("adapter", "beside") if isinstance(config[key], str)), None):
        adopt(config, Path(named), overrides)
    parts = build(config, ("model", "trainer", "eval"))
    sampling, number = parts["eval"].sampling, seed(config)
    asked = [_named_by(config, key) for key in ("adapter", "beside") if config[key] is not None]
    if config.adapter is None:  # the base, read as what stands beside it was trained to be
        asked = [(None, asked[0][1] if asked else parts["model"]), *asked]
    from .speakers import converse, speakers

    talking = speakers(asked, parts["trainer"].mixed_precision)
    sys.stdin.reconfigure(errors="replace")
    converse(talking, sampling, number)


def merge(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Merge an adapter into its base, loaded in plain precision, and save a model that needs neither of them apart."""
    if isinstance(config.adapter, str):
        adopt(config, Path(config.adapter), overrides)
    source, model = adapter_of(config)
    if model.lora is None:
        raise ConfigError(f"adapter: found a whole model in {source}; expected a LoRA adapter; "
                          "fix: it needs no merging")
    model = dataclasses.replace(model, max_length=2, max_prompt_length=1)  # no text is read, of whatever length
    import torch

    from ..data.template import Template
    from ..models import adapters
    from ..models.model import end_ids, load_base, load_config, load_tokenizer
    from .hand_over import hand_over, merged_card

    if getattr(load_config(model), "quantization_config", None):
        raise ConfigError(f"model.name: found {model.name}, whose weights are quantised already; expected plain "
                          "weights, or merging would round them again; fix: model.name=… of what it was quantised "
                          "from")
    template = Template(load_tokenizer(model), model.chat_template)
    # merging into 4-bit weights would requantise them
    whole = dataclasses.replace(model, precision="fp32" if model.precision == "fp32" else "bf16")
    base = load_base(whole, torch.device("cpu"))
    merged = folder / "merged"
    adapters.merge(base, source).save_pretrained(merged)
    for path in merged.glob("*.safetensors"):  # written for their owner alone, and who serves them may be another
        shutil.copymode(merged / "config.json", path)
    hand_over(template, merged, end_ids(model))
    with results.whole(merged / "README.md") as file:
        file.write_text(merged_card(model.name, source, whole.precision), encoding="utf-8")
    print(f"merged model: {merged}")
