"""The command line: its help, its tasks, what a run leaves in its folder, and how a sweep with a bad job ends."""

import json
import logging
import math
import re
import shutil

import pandas as pd
import pytest

from algorithms.common.evaluation.verdicts import FILE, read
from algorithms.common.models.precision import cpu_has_bf16
from algorithms.common.support.terminal import IN_SWEEPS
from benchmarks.report import collect
from command_line import GROUPS, MICRO, MICRO_DPO, ROOT, choices, invoke, run_python
from few import few

ROWS = [{"prompt": f"question {i}", "chosen": "yes", "rejected": "no"} for i in range(20)]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """(folder of the smallest DPO run, its store of stages, what it printed)."""
    folder = tmp_path_factory.mktemp("micro")
    ended = invoke(*MICRO_DPO, f"stages.folder={folder}/stages", f"hydra.run.dir={folder}/run")
    assert ended.status == 0, ended.err
    return folder / "run", folder / "stages", ended


# Help


def test_help_explains_every_group():
    ended = invoke("--help")
    assert ended.status == 0
    explained = ended.out.split("keys inside a group as GROUP.KEY=VALUE")[1]
    for group in GROUPS:
        assert re.search(rf"^  {group}  +\w\S* \S+", explained, re.MULTILINE), group
    for choice in choices("algorithm"):
        assert re.search(rf"^algorithm: .*\b{choice}\b", ended.out, re.MULTILINE)
    for option in ("seed", "adapter", "stages.folder", "hydra.run.dir", "hydra.sweep.dir", "--cfg job"):
        assert option in ended.out


def test_the_composed_config_is_shown_without_running():
    ended = invoke("--cfg", "job", "algorithm=sft")
    assert ended.status == 0 and "_target_: algorithms.sft.SFT" in ended.out and not ended.err


# task=inspect


def test_inspect_prints_and_writes_what_it_counted(tmp_path, pairs):
    ended = invoke("task=inspect", "data=file", f"data.path={pairs}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/s")
    assert ended.status == 0
    report = strict((tmp_path / "run/data.json").read_text())
    assert report["read"] == report["kept"] == 20 and report["dropped"] == {} and report["kinds"] == {"pair": 20}
    sets = report["sets"]
    assert sets["preferences"] + sets["heldout"] == 20 and sets["demonstrations"] == sets["preferences"]
    assert "read 20 rows, kept 20 records: 20 pair\n" in ended.out and f"report: {tmp_path}/run/data.html" in ended.out
    assert re.search(rf"^  preferences +{sets['preferences']} +{sets['preferences']} +2 ", ended.out, re.MULTILINE)
    assert (tmp_path / "run/data.html").read_text().startswith("<!DOCTYPE html>")


def test_inspect_says_what_it_dropped(tmp_path, pairs):
    with pairs.open("a") as file:
        file.write('{"prompt": "q", "chosen": "same", "rejected": "same"}\n{"prompt": "q", "chosen": "", "rejected": '
                   '"no"}\n')
    command = ["task=inspect", "data=file", f"data.path={pairs}", f"hydra.run.dir={tmp_path}/run",
               f"stages.folder={tmp_path}/s"]
    refused = invoke(*command)
    assert refused.status == 2 and f"{pairs}:21: " in refused.err
    assert "data.on_bad_row=drop would leave 20 records" in refused.err
    ended = invoke(*command, "data.on_bad_row=drop")
    report = json.loads((tmp_path / "run/data.json").read_text())
    assert ended.status == 0 and sum(report["dropped"].values()) == 2 and report["kept"] == 20
    assert f"dropped 1: identical pair ({pairs}:21)" in ended.out


def test_inspect_in_a_process_of_its_own_imports_no_model(tmp_path, pairs):
    code = ("import runpy, sys; sys.argv = ['run.py', *sys.argv[1:]]\n"
            "try: runpy.run_path('run.py', run_name='__main__')\n"
            "finally: print('LOADED', [m for m in ('transformers', 'peft', 'trl', 'accelerate') if m in "
            "sys.modules])")
    ended = run_python("-c", code, "task=inspect", "data=file", f"data.path={pairs}", f"hydra.run.dir={tmp_path}/run",
                       f"stages.folder={tmp_path}/stages")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[-1] == "LOADED []"


def test_bad_input_is_one_message_on_stderr_and_status_2(tmp_path):
    path = tmp_path / "cut.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "cho')
    ended = invoke("task=inspect", "data=file", f"data.path={path}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/stages")
    assert ended.status == 2 and ended.out == ""
    assert re.fullmatch(rf"{path}:2: .+: found .+; expected .+; fix: .+\n", ended.err)


def test_control_characters_of_bad_input_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "hostile.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "\x1b]0;title\x07", "content": "x"}]}) + "\n")
    ended = invoke("task=inspect", "data=file", f"data.path={path}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/s")
    assert ended.status == 2 and "title" in ended.err and "\x1b" not in ended.err and "\x07" not in ended.err


def test_more_than_one_process_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = invoke("task=inspect", f"hydra.run.dir={tmp_path}")
    assert ended.status == 2 and ended.err.startswith("WORLD_SIZE: found more than one process")


def test_a_view_that_does_not_exist_is_refused_before_the_stages_it_would_stand_on_are_trained(tmp_path):
    ended = invoke(*MICRO_DPO, "algorithm.view=letters", f"stages.folder={tmp_path}/stages",
                   f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 2
    assert ended.err.startswith("algorithm.view: found 'letters'; expected one of demonstrations, ")
    assert not list((tmp_path / "stages").rglob("*.safetensors"))


@pytest.mark.parametrize("overrides, told", few([
    (["model.name=nosuch/model"], "model.name: found 'nosuch/model', which could not be loaded"),
    (["model.chat_template=nofile"], "model.chat_template: found no file nofile"),
    (["algorithm=ppo", "reward=gold"], "algorithm.critic: found reward, but no reward model on the policy's base"),
    (["algorithm=ppo", "model.lora.dropout=0.1"], "model.lora.dropout: found 0.1; expected 0 for PPO"),
    (["algorithm=ppo", "data.tuning=0", "trainer.evaluate_every=1"],
     "trainer.evaluate_every: found 1, but the data holds nothing"),
    (["data.tuning=0", "eval.split=tuning"], "eval.split: found tuning, but the data holds no such prompts")],
    [0, 2, 5]))
def test_what_cannot_be_trained_is_refused_before_anything_is(overrides, told, tmp_path):
    ended = invoke(*MICRO_DPO, *overrides, f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 2 and ended.err.startswith(told), ended.err
    assert not list((tmp_path / "stages").rglob("*.safetensors"))


# What a run leaves


def strict(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_run_leaves_its_result(micro):
    folder, _, ended = micro
    result = strict((folder / "result.json").read_text())
    assert {"schema", "status", "algorithm", "seed", "config", "commit", "versions", "device", "data", "evaluation",
            "cost",
            "budget", "overrides"} <= set(result)
    assert (result["schema"], result["status"], result["algorithm"], result["seed"]) == (2, "complete", "dpo", 0)
    assert result["samples"] == 2 and result["start"]["kind"] == "sft" and len(result["start"]["identity"]) > 16
    assert result["device"].startswith(f"cpu {'with' if cpu_has_bf16() else 'without'} bf16, ")
    assert {"read", "dropped", "truncated"} <= set(result["data"])
    for name in ("reward/gold", "reward/gold_minus_sft", "win_rate/sft", "kl/k1", "kl/exact", "length/mean", "eos_rate",
                 "distinct_2", "perplexity/heldout"):
        figure = result["evaluation"][name]
        assert set(figure) == {"mean", "low", "high", "n", "unit", "seeds", "kind"} and figure["seeds"] == 1
        assert figure["low"] <= figure["mean"] <= figure["high"]
        assert figure["kind"] != "share" or 0 <= figure["low"] < figure["high"] <= 1, name
    kinds = {name: figure["kind"] for name, figure in result["evaluation"].items()}
    assert (kinds["eos_rate"], kinds["perplexity/heldout"], kinds["kl/exact"]) == ("share", "perplexity", "mean")
    cost = {"seconds", "tokens_trained", "tokens_sampled", "reward_queries", "labels", "peak_memory_bytes",
            "resident_models",
            "trainable_parameters"}
    assert cost | {"stages"} <= set(result["cost"])
    assert result["cost"]["tokens_trained"] > 0 and result["cost"]["labels"] == 32
    assert "reference" in result["cost"]["stages"] and cost <= set(result["cost"]["stages"]["reference"])
    assert result["config"]["recipe"]["steps"] == 2 and "recipe.steps=2" in result["overrides"]
    assert {"torch", "transformers", "peft", "python"} <= set(result["versions"])
    assert re.search(r"^  reward/gold  .*\[.*\]  +4 prompts$", ended.out, re.MULTILINE)
    assert re.search(r"^  perplexity/heldout  .*  4 demonstrations$", ended.out, re.MULTILINE)
    assert "hold for this trained model" in ended.out and f"results: {folder}" in ended.out
    assert "Traceback" not in ended.err


def test_a_run_leaves_its_start_s_figures_beside_its_own(micro, tmp_path):
    """The start's are those of a run of it."""
    folder, stages, ended = micro
    sft = invoke("algorithm=sft", *MICRO, "recipe.batch_size=32", f"stages.folder={stages}",
                 f"hydra.run.dir={tmp_path}/sft")
    assert sft.status == 0, sft.err
    result, alone = (strict((one / "result.json").read_text()) for one in (folder, tmp_path / "sft"))
    as_a_start = {name: one for name, one in alone["evaluation"].items() if "base" not in name}
    assert result["start"]["evaluation"] == as_a_start
    assert result["start"]["identity"] == alone["identity"] != result["identity"]
    assert alone["start"]["kind"] == "base" and {"reward/gold_minus_base", "win_rate/base"} <= set(alone["evaluation"])
    before = pd.read_parquet(folder / "start.parquet")
    assert set(before["figure"]) == set(result["start"]["evaluation"])
    own, other = (one["reward/gold"] for one in (result["evaluation"], result["start"]["evaluation"]))
    told = rf"^  reward/gold +{own['mean']:.4f} +\[.*\] +{other['mean']:.4f} +\[.*\] +4 prompts$"
    assert re.search(told, ended.out, re.MULTILINE) and "start (sft)" in ended.out and "start (base)" in sft.out
    answers = pd.read_parquet(folder / "samples.parquet")["response"][0].split()
    for text in (ended.out, (folder / "README.md").read_text()):
        assert text.count("\n  prompt  ") == text.count("\n  start   ") == text.count("\n  dpo     ") == 3
        assert all(word in text for word in answers)
    card = (folder / "README.md").read_text()
    assert f"| reward/gold | {own['mean']:.4g} |" in card and f"| {other['mean']:.4g} |" in card


def test_a_run_leaves_its_samples(micro):
    frame = pd.read_parquet(micro[0] / "samples.parquet")
    assert len(frame) == 4 * 2 and frame["sample"].tolist() == [0, 1] * 4 and set(frame["candidate"]) == {0}
    assert {"prompt", "response", "gold", "logprob_policy", "logprob_reference", "length",
            "finished"} <= set(frame.columns)
    assert frame["length"].between(0, 8).all() and (frame["logprob_policy"] < 0).all()


def test_the_figures_are_those_that_the_samples_give(micro, tmp_path):
    """By plain Python, from both runs' samples.parquet: the method's, and that of the stage it started from."""
    folder, stages, _ = micro
    ended = invoke("algorithm=sft", *MICRO, "recipe.batch_size=32", f"stages.folder={stages}",
                   f"hydra.run.dir={tmp_path}/sft")
    assert ended.status == 0, ended.err
    mine, start = (pd.read_parquet(one / "samples.parquet").to_dict("records") for one in (folder, tmp_path / "sft"))
    prompts = sorted({row["prompt_id"] for row in mine})

    def of(rows, prompt, column="gold"):
        return [float(row[column]) for row in rows if row["prompt_id"] == prompt]

    def won(first, second):
        return 1.0 if first > second else 0.5 if first == second else 0.0

    expected = {
        "reward/gold": {prompt: (sum(of(mine, prompt)), 2) for prompt in prompts},
        "length/mean": {prompt: (sum(of(mine, prompt, "length")), 2) for prompt in prompts},
        "eos_rate": {prompt: (sum(of(mine, prompt, "finished")), 2) for prompt in prompts},
        "kl/exact": {prompt: (sum(of(mine, prompt, "kl_exact")), 2) for prompt in prompts},
        "reward/gold_minus_sft": {prompt: (sum(of(mine, prompt)) / 2 - sum(of(start, prompt)) / 2, 1)
                                  for prompt in prompts},
        "win_rate/sft": {prompt: (sum(won(a, b) for a in of(mine, prompt) for b in of(start, prompt)) / 4, 1)
                         for prompt in prompts}}
    written = pd.read_parquet(folder / "figures.parquet").to_dict("records")
    told = strict((folder / "result.json").read_text())["evaluation"]
    for name, rows in expected.items():
        found = {row["prompt_id"]: (row["numerator"], row["denominator"]) for row in written if row["figure"] == name}
        assert found.keys() == rows.keys()
        assert all(found[prompt] == pytest.approx(rows[prompt]) for prompt in prompts), name
        ratio = sum(top for top, _ in rows.values()) / sum(bottom for _, bottom in rows.values())
        assert told[name]["mean"] == pytest.approx(ratio) and told[name]["n"] == 4
    by_rows = {name for name, one in told.items() if one["kind"] in ("mean", "share", "perplexity")}
    assert {row["figure"] for row in written} == by_rows == told.keys() - {"calibration/error"}


def test_the_gold_reward_judges_a_finished_run(micro, tmp_path):
    """With the run's own data; its verdicts say of each answer what the run's samples do."""
    folder, stages, _ = micro
    shutil.copytree(folder, tmp_path / "sweep/0")
    references = pd.read_parquet(folder / "references.parquet")
    assert set(references["side"]) == {"start", "data"} and (references["side"] == "start").sum() == 4 * 2
    ended = invoke("task=judge", f"runs={tmp_path / 'sweep'}", "judge=scorer", f"stages.folder={stages}",
                   f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 0 and "against what training began with" in ended.out, ended.err
    found = read(tmp_path / "sweep" / FILE)
    frame = pd.read_parquet(folder / "samples.parquet")
    gold = {(row.prompt_id, row.sample): row.gold for row in frame.itertuples()}
    assert {(one.right, one.judge, one.left) for one in found} == {("start", "gold", "0"), ("data", "gold", "0")}
    assert len(found) == 2 * 4 * 2
    assert all(one.left_score == pytest.approx(gold[one.prompt_id, one.sample]) for one in found)
    mine = [(one.left_score > one.right_score) + 0.5 * (one.left_score == one.right_score)
            for one in found if one.right == "start"]
    assert f"{sum(mine) / len(mine):.3f}" in ended.out


def test_a_run_leaves_its_training_metrics(micro):
    rows = [strict(line) for line in (micro[0] / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert {"loss/policy", "grad_norm", "tokens_per_second"} <= set(rows[-1])
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_a_run_leaves_its_adapter_on_top_with_a_card(micro):
    folder = micro[0]
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert (folder / "adapter_model.safetensors").stat().st_size > 0
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: ") and "library_name: peft" in card and "| reward/gold |" in card
    assert "arXiv" in card, "the method's source"


def test_the_same_command_again_takes_everything_from_the_store(micro, tmp_path):
    folder, stages, _ = micro
    ended = invoke(*MICRO_DPO, f"stages.folder={stages}", f"hydra.run.dir={tmp_path}/again")
    first, second = (strict((one / "result.json").read_text()) for one in (folder, tmp_path / "again"))
    assert ended.status == 0
    for result in (first, second):
        for key in ("config", "overrides", "versions"):
            result.pop(key)
    assert first == second


# task=chat and task=merge


def test_chat_answers_and_neutralises_what_a_model_writes(micro, tmp_path, monkeypatch):
    from algorithms.common.data.template import Template

    plain = Template.decode
    monkeypatch.setattr(Template, "decode", lambda self, ids: " \x1b]0;owned\x07 \u202eend 👩‍👧" + plain(self, ids))
    ended = invoke("task=chat", f"adapter={micro[0]}", "eval.sampling.max_new_tokens=8",
                   f"hydra.run.dir={tmp_path}/chat",
                   stdin="The food was\nand \xff\n\nnever read\n".encode("latin-1"))
    assert ended.status == 0, ended.err
    assert ended.out.count("> ") == 3, "two turns, and the empty line that ends it"
    assert ended.out.count(r"\u001b]0;owned\u0007 \u202eend 👩‍👧") == 2
    assert not set(ended.out) & set("\x1b\x07\u202e")
    assert "never read" not in ended.out


def test_chat_is_reproducible_and_ends_with_its_input(micro, tmp_path):
    command = ["task=chat", f"adapter={micro[0]}", "eval.sampling.max_new_tokens=8", f"hydra.run.dir={tmp_path}/chat"]
    # without the log
    first, second = (invoke(*command, stdin=b"The food was").out.partition("\n> ")[2] for _ in range(2))
    assert first == second and first.endswith("\n> ") and len(first) > 4


@pytest.mark.parametrize("task", ["chat", "merge"])
def test_a_folder_without_weights_is_refused(task, tmp_path):
    ended = invoke(f"task={task}", f"adapter={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 2
    assert ended.err.startswith("adapter: found no adapter_model.safetensors or model.safetensors in ")


def test_chat_without_an_adapter_talks_to_the_base(micro, tmp_path):
    """With ``beside`` to both, each in its own words and with its own name; greedy, as plain transformers answers."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lab, text = ROOT / "benchmarks/lab/reviews", "The food was"
    tokenizer = AutoTokenizer.from_pretrained(lab)
    base = AutoModelForCausalLM.from_pretrained(lab, dtype=torch.float32)

    def greedy(model) -> str:
        ids = tokenizer(text, return_tensors="pt").input_ids
        found = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1]:]
        return tokenizer.decode(found, skip_special_tokens=True).strip()

    command = ["task=chat", "eval.sampling.max_new_tokens=8", "eval.sampling.temperature=0",
               "trainer.mixed_precision=no", f"hydra.run.dir={tmp_path}/chat"]
    alone = invoke(*command, stdin=f"{text}\n".encode())
    assert alone.status == 0 and alone.out.partition("\n> ")[2] == f"{greedy(base)}\n> "
    both = invoke(*command, f"beside={micro[0]}", stdin=f"{text}\n".encode())
    assert both.out.partition("\n> ")[2].startswith(f"[base] {greedy(base)}\n[{micro[0]}] ")
    assert both.out.count(f"{lab.name} on ") == 1, "one base in memory"
    twice = invoke(*command, f"adapter={micro[0]}", f"beside={micro[0]}", stdin=f"{text}\n".encode())
    trained = greedy(PeftModel.from_pretrained(base, micro[0]))
    assert twice.out.partition("\n> ")[2] == f"[{micro[0]}] {trained}\n" * 2 + "> "


def test_chat_keeps_the_conversation_until_it_is_begun_anew(tmp_path):
    """What the model reads says so: after /reset, and only then, the same question has the same answer."""
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    command = ["task=chat", "eval.sampling.max_new_tokens=8", "eval.sampling.temperature=0",
               f"model.chat_template={template}", f"hydra.run.dir={tmp_path}/chat"]
    ended = invoke(*command, stdin=b"and the\nand the\n/reset\nand the\n")
    assert ended.status == 0, ended.err
    head, *answers, last = ended.out.split("> ")
    assert f"base reads messages, by {template}" in head and "/reset begins anew" in head
    assert answers[2] == "" and answers[0] == answers[3] != answers[1] and not last
    assert len(re.findall(r"^\(\d+ tokens, \d+ a second\)$", ended.err, re.MULTILINE)) == 3


@pytest.mark.parametrize("task", ["chat", "merge"])
def test_an_adapter_of_another_model_is_refused(task, micro, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "other" / name).write_bytes((micro[0] / name).read_bytes())
    told = json.loads((tmp_path / "other/adapter_config.json").read_text())
    told["base_model_name_or_path"] = "some/model"
    (tmp_path / "other/adapter_config.json").write_text(json.dumps(told))
    ended = invoke(f"task={task}", f"adapter={tmp_path}/other", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 2
    assert ended.err.startswith("adapter: found an adapter of some/model; expected one of model.name=bench")


def test_merge_writes_a_plain_model_with_the_same_logits(micro, tmp_path):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ended = invoke("task=merge", f"adapter={micro[0]}", f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 0, ended.err
    folder = tmp_path / "out/merged"
    assert not [name for name in load_file(folder / "model.safetensors") if "lora" in name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The food was good and the service", return_tensors="pt").input_ids
    lab = ROOT / "benchmarks/lab/reviews"
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(lab, dtype=torch.float32)
        without = base(ids).logits
        adapted = PeftModel.from_pretrained(base, str(micro[0]))(ids).logits
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(merged, without, atol=1e-4), "two steps of training leave a trace"


# A sweep with a bad job


def test_a_bad_job_fails_alone(micro, tmp_path):
    """The second job cannot be; the first comes from the store."""
    _, stages, _ = micro
    ended = invoke("-m", *MICRO_DPO, "algorithm.beta=0.1,-1", f"stages.folder={stages}",
                   f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 1
    good, bad = (strict((tmp_path / "sweep" / job / "result.json").read_text()) for job in "01")
    assert good["status"] == "complete" and "reward/gold" in good["evaluation"]
    assert bad["status"] == "failed" and bad["error"]["type"] == "ConfigError"
    assert bad["error"]["message"].startswith("algorithm.beta: found -1; expected")
    assert (bad["algorithm"], bad["seed"], bad["config"]["algorithm"]["beta"]) == ("dpo", 0, -1)
    for name in ("table.md", "table.csv", "table.tex"):
        text = (tmp_path / "sweep" / name).read_text()
        assert "0.1" in text and "-1" in text.replace("−", "-"), name
    assert "algorithm.beta: found -1" in (tmp_path / "sweep/table.md").read_text()
    assert "Traceback" not in ended.err + ended.out
    (tmp_path / "sweep/1/result.json").unlink()  # as a job leaves it that was killed
    killed = collect([tmp_path / "sweep"])[1]
    assert (killed.status, killed.algorithm, killed.overrides["algorithm.beta"]) == ("failed", "dpo", "-1")


@pytest.mark.parametrize("wrong", few(["seed=0,x", "data.preferences=32,${oc.env:NO_SUCH_VARIABLE}", "seed=0,1.5",
                                       "recipe.lr=1e-3,nan"], [0, 1]))
def test_whatever_is_wrong_with_a_job_it_leaves_a_row(wrong, tmp_path):
    """All jobs fail here, the first for another reason: nothing is trained."""
    ended = invoke("-m", *MICRO_DPO, "model.max_length=0", wrong, f"stages.folder={tmp_path}/s",
                   f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 1
    results = [strict((tmp_path / "sweep" / job / "result.json").read_text()) for job in "01"]
    assert [result["status"] for result in results] == ["failed", "failed"]
    assert (tmp_path / "sweep/table.md").is_file()


def test_an_unexpected_error_of_a_job_is_a_row_with_its_traceback_in_the_log(tmp_path, monkeypatch):
    from algorithms.common.runs import tasks

    def broken(*arguments):
        raise ZeroDivisionError("nothing was left")

    monkeypatch.setattr(tasks, "run", broken)
    ended = invoke("-m", "algorithm=dpo", f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 1
    result = strict((tmp_path / "sweep/0/result.json").read_text())
    assert result["error"] == {"type": "ZeroDivisionError", "message": "nothing was left"}
    assert "Traceback" in (tmp_path / "sweep/0/run.log").read_text()
    with pytest.raises(ZeroDivisionError):
        invoke("algorithm=dpo", f"hydra.run.dir={tmp_path}/run")


def test_a_job_of_a_sweep_says_little_and_its_log_file_all(tmp_path, monkeypatch):
    from algorithms.common.runs import tasks

    def run(config, name, folder, overrides):
        logging.getLogger("some.room").info("read 5 rows")
        logging.getLogger("some.room").info("stage 1 of 2", extra=IN_SWEEPS)

    monkeypatch.setattr(tasks, "run", run)
    ended = invoke("-m", "algorithm=dpo", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    assert "read 5 rows" not in ended.out and "] #0 stage 1 of 2\n" in ended.out and "] #1 stage 1 of 2\n" in ended.out
    assert "] read 5 rows\n" in (tmp_path / "sweep/1/run.log").read_text()
    whole = invoke("-m", "algorithm=dpo", "seed=1,2", "hydra.verbose=true", f"hydra.sweep.dir={tmp_path}/verbose")
    assert whole.out.count("read 5 rows") == 2
    assert "] read 5 rows\n" in invoke("algorithm=dpo", f"hydra.run.dir={tmp_path}/run").out


def test_an_interrupt_ends_a_sweep(tmp_path, monkeypatch):
    from algorithms.common.runs import tasks

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "run", interrupted)
    ended = invoke("-m", "algorithm=dpo,sft", f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 130 and "interrupted" in ended.err
    assert not (tmp_path / "sweep/1").exists()


@pytest.mark.slow
def test_a_sweep_in_a_process_of_its_own_ends_with_status_1(tmp_path):
    ended = run_python(str(ROOT / "run.py"), "-m", "algorithm=sft", *MICRO, "recipe.steps=1,0",
                       f"stages.folder={tmp_path}/stages",
                       f"hydra.sweep.dir={tmp_path}/sweep")
    assert ended.status == 1 and (tmp_path / "sweep/table.md").is_file()
    assert strict((tmp_path / "sweep/0/result.json").read_text())["status"] == "complete"


