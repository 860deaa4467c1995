"""The benchmark beside TRL: both sides compute the same before anything is timed; its arithmetic, its memory gauge."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace

import pytest

from benchmarks.random_models import SHAPES
from benchmarks.speed import __main__ as command
from benchmarks.speed import compare, dpo, ppo_trl, request, reward, sampling
from benchmarks.speed.compare import Apart, Watch, best_option, largest_difference, options_of, ratio
from benchmarks.speed.page import elsewhere, page
from benchmarks.speed.prepare import pairs, prepare
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.side import KINDS, answer, kind
from benchmarks.speed.training import ranked
from training_setup import ROOT, environment

QUICK = ("rrhf_4", "ppo", "sampling", "sampling_16", "sampling_16of1")
WITHOUT_VALUES = ("start", "ppo_dpo", "ppo_trl")
ALL = [what if what in QUICK else pytest.param(what, marks=pytest.mark.slow) for what in KINDS
       if what not in WITHOUT_VALUES]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Request:
    folder = tmp_path_factory.mktemp("speed") / "prepared"
    lengths = Lengths((16, 48), (4, 24))
    prepare("tiny", folder, lengths)
    return Request("", "", "tiny", "cpu", "fp32", 3, str(folder), "", parity=True, lengths=lengths)


@pytest.mark.parametrize("what", ALL)
def test_both_sides_compute_the_same(asked, what, tmp_path):
    values = {}
    for side in kind(what).SIDES:
        if side == "TRL":
            pytest.importorskip("trl")
        (tmp_path / side).mkdir()
        option = options_of(kind(what), side)[0]
        found = answer(replace(asked, what=what, side=side, option=option, work=str(tmp_path / side)))
        assert found["items"] > 0 and found["seconds"] > 0 and found["imported_bytes"] > 0
        values[side] = found["values"]
    assert len(next(iter(values.values()))) >= 3
    assert largest_difference(values) <= (0 if what.startswith(("sampling", "loading")) else compare.TOLERANCE["fp32"])


@pytest.mark.slow
@pytest.mark.parametrize("side, libraries", [("ours", {"peft"}), ("TRL", {"peft", "trl"})])
def test_what_is_imported_is_no_part_of_a_sides_memory(asked, side, libraries, tmp_path):
    """PEFT and the model's own module take a hundred MiB, whenever they come."""
    request_ = json.dumps(asdict(replace(asked, what="dpo", side=side, work=str(tmp_path))))
    code = ("import json, sys; from benchmarks.speed import side; from benchmarks.speed.request import Request; "
            "seen = []; side.resident = lambda: seen.extend(sys.modules) or 1; "
            f"side.answer(Request.read({request_!r})); print(json.dumps(seen))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert libraries | {"transformers.models.llama.modeling_llama", "torch"} <= set(seen), done.stderr[-500:]


def test_another_loss_does_not_pass_for_the_same(asked, tmp_path, monkeypatch):
    """A tenth more of β moves the losses by more than the tolerance."""
    values = {}
    for beta in (request.BETA, 1.1 * request.BETA):
        monkeypatch.setattr(dpo, "BETA", beta)
        (tmp_path / str(beta)).mkdir()
        values[beta] = answer(replace(asked, what="dpo", side="ours", work=str(tmp_path / str(beta))))["values"]
    assert largest_difference(values) > 10 * compare.TOLERANCE["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ours", "TRL"])
def test_a_start_ends_at_the_first_steps_checkpoint(asked, side, tmp_path):
    found = answer(replace(asked, what="start", side=side, work=str(tmp_path)))
    assert found["items"] == 1 and found["seconds"] > 1 and not found["values"]


@pytest.mark.slow
@pytest.mark.parametrize("what, side", [("ppo_dpo", "ours"), ("ppo_dpo", "our DPO"), ("ppo_trl", "ours")])
def test_sides_that_have_no_values_take_as_many_prompts(asked, what, side, tmp_path):
    found = answer(replace(asked, what=what, side=side, steps=1, work=str(tmp_path)))
    assert found["items"] == (ppo_trl.PROMPTS if what == "ppo_trl" else request.BATCH)  # of whole batches


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("TRL_PPO"), reason="TRL_PPO names no python of an environment with TRL 1.12.0")
@pytest.mark.parametrize("option", kind("ppo_trl").OPTIONS[ppo_trl.ELSEWHERE])
def test_the_last_trl_with_ppo_takes_each_setting(asked, option):
    found = compare.run(replace(asked, what="ppo_trl", side=ppo_trl.ELSEWHERE, steps=1, option=option,
                                python=os.environ["TRL_PPO"]))
    assert found["items"] == ppo_trl.PROMPTS and found["versions"]["trl"] == "1.12.0"


def test_batches_of_ppo_have_the_prompts_of_the_steps(asked):
    assert [ppo_trl.batches(replace(asked, steps=steps)).steps for steps in (1, 4, 5, 20)] == [1, 1, 2, 5]


def test_no_draw_is_taken_for_padding(asked):
    shape, (text,) = SHAPES["tiny"], pairs(asked, 1)
    tokenizer = ppo_trl.padding_apart(asked, shape.vocabulary)
    plain = len(ppo_trl.padding_apart(asked, 0)) - 1
    assert plain < shape.vocabulary <= tokenizer.pad_token_id and max(tokenizer(text["prompt"]).input_ids) < plain


def test_of_trls_critic_the_adapter_and_the_head_are_trained(asked):
    critic = ppo_trl.with_adapter(ppo_trl.classifier(asked))
    trained = {name for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {"score.weight"}
    assert len(trained) == 1 + 2 * 7 * SHAPES["tiny"].layers and critic.base_model_prefix == "model"


@pytest.mark.parametrize("what, response, wanted", [
    ("dpo", "16-96", 3e-5), ("dpo", "4-24", 3e-5), ("dpo", "128-288", 9e-5), ("sampling", "128-288", 0.0)])
def test_longer_responses_may_round_more(asked, what, response, wanted):
    lengths = request.Lengths.read("64-192", response)
    assert compare.tolerance_of(replace(asked, what=what, lengths=lengths)) == pytest.approx(wanted)


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks.speed", "what=rrhf_4", "size=tiny", "repeats=2", "steps=2",
                           "prompt=16-48", "response=4-24", f"out={tmp_path}"],
                          cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "rrhf_4_tiny_cpu_fp32_16-48_4-24.json").read_text(encoding="utf-8"))
    runs = [run for side in found["sides"].values() for run in side["runs"]]
    assert len(runs) == 4 and all(run["peak_bytes"] > run["imported_bytes"] > 0 for run in runs)
    assert "| rrhf_4, prompts | tiny | fp32 | 16-48, 4-24 | plain rows | as they come |" in page(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page(tmp_path)


@pytest.mark.parametrize("what, prompts, rows", [
    ("sampling", 20, [64, 16]), ("sampling_1", 20, [1] * 20), ("sampling_16", 48, [16] * 3), ("sampling_64", 64, [64]),
    ("sampling_16of1", 3, [16] * 3)])
def test_both_sides_decode_as_many_sequences_together(asked, what, prompts, rows, monkeypatch):
    """Of 20 steps: sampling takes a prompt a step, the others two sequences, or one, and fill their batches."""
    import torch

    from algorithms.common.models import sampling as decoding

    seen: dict[str, list[int]] = {"ours": [], "generate": []}

    class Model:
        def eval(self):
            return self

        def generate(self, input_ids, max_new_tokens, num_return_sequences, **_):
            seen["generate"].append(len(input_ids) * num_return_sequences)
            return torch.zeros(seen["generate"][-1], input_ids.shape[1] + max_new_tokens, dtype=torch.long)

    def decode(models, beginning, streams, *_):
        seen["ours"].append(len(streams))
        return [decoding.Sample([0] * streams.shape[1], False)] * len(streams)

    monkeypatch.setattr(sampling, "adapted", lambda *_: Model())
    monkeypatch.setattr(decoding, "_decode", decode)
    for side in seen:
        found = answer(replace(asked, what=what, side=side, steps=20, parity=False))
        assert found["items"] == sum(rows) * request.MOST_NEW and seen[side] == rows
    encoded = kind(what).SIDES["ours"].keywords["shape"].prompts(replace(asked, steps=20), len)
    assert len(encoded) == prompts


def test_ranked_responses_differ_and_have_the_pairs_words(asked):
    for text in pairs(asked, 512):
        found = ranked(text, 8)
        assert found[:2] == [text["chosen"], text["rejected"]] and len(set(found)) == 8
        assert all(sorted(one.split()) == sorted(text[key].split())
                   for place, one in enumerate(found) for key in [("chosen", "rejected")[place % 2]])


def test_four_ranked_responses_make_six_pairs_a_prompt(asked):
    rows = reward.all_pairs(replace(asked, steps=1))
    assert len(rows) == 6 * request.BATCH and len({tuple(row.values()) for row in rows}) == len(rows)
    first = [row for row in rows if row["prompt"] == rows[0]["prompt"]]
    assert first == rows[:6] and [row["chosen"] for row in first] == [first[0]["chosen"]] * 3 + [
        first[0]["rejected"]] * 2 + [first[1]["rejected"]]


@pytest.mark.parametrize("what", ["dpo", "dpo_ref", "dpo_micro1", "dpo_micro8", "sft", "reward", "reward_k4",
                                  "ppo_trl"])
def test_all_of_trls_splits_of_a_step_have_its_records(what):
    """Few records a pass are often the fastest on a CPU, many on a GPU: both are tried where a kind leaves it open."""
    whole = {"reward_k4": 48, "ppo_trl": 32}.get(what, request.BATCH)
    (options,) = kind(what).OPTIONS.values()
    tried = {one["per_device_train_batch_size"]: one["gradient_accumulation_steps"] for one in options
             if "per_device_train_batch_size" in one}
    assert all(size * parts == whole for size, parts in tried.items())
    if what not in ("dpo_micro8", "dpo_micro1"):
        assert 1 in tried and len(tried) >= 4


@pytest.mark.parametrize("what", KINDS)
def test_every_kind_has_two_sides_and_settings_of_theirs(what):
    one = kind(what)
    ours, other = one.SIDES
    assert ours == "ours" and one.UNIT and set(one.OPTIONS) <= {other}
    assert all(options for options in one.OPTIONS.values())


def told(seconds: float, **more) -> dict:
    return {"values": [1.0, 2.0], "seconds": seconds, "cpu_seconds": seconds, "items": 4, "imported_bytes": 100,
            "peak_bytes": 300, "process_seconds": seconds, **more}


@pytest.fixture
def runs(monkeypatch) -> list[Request]:
    """What was run, by a stand-in that takes 1 s on our side and more on the other."""
    seen: list[Request] = []

    def run(one: Request) -> dict:
        seen.append(one)
        if one.option.get("dataloader_num_workers"):
            raise RuntimeError("no workers here")
        slower = 2.0 if one.option.get("per_device_train_batch_size") == 1 else 3.0
        return told(1.0) if one.side == "ours" else told(slower, peak_bytes=500)

    monkeypatch.setattr(compare, "run", run)
    return seen


def test_parity_comes_first_then_the_search_then_its_findings_parity_then_both_in_turn(asked, runs):
    found = compare.compare(replace(asked, what="dpo", parity=False), repeats=2)
    tried = kind("dpo").OPTIONS["TRL"]
    options = len(tried)
    assert [one.side for one in runs[:2]] == ["ours", "TRL"] and all(one.parity for one in runs[:2])
    assert [one.option for one in runs[2:2 + options]] == tried
    options += 2  # the best two again
    assert [one.parity for one in runs[2:]] == [False] * options + [True] * 2 + [False] * 4
    assert [one.side for one in runs[2 + options:4 + options]] == ["ours", "TRL"]
    assert [one.side for one in runs[4 + options:]] == ["ours", "TRL", "TRL", "ours"]
    best = found["sides"]["TRL"]["option"]
    assert best["per_device_train_batch_size"] == 1
    assert all(one.option == best for one in runs[2 + options:] if one.side == "TRL")
    assert found["ratios"]["seconds"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert found["ratios"]["memory"]["median"] == 2.0  # 400 for 200 above the imports


@pytest.mark.parametrize("what, steps", [("dpo", 6), ("ppo", 1), ("ppo_dpo", 0)])
def test_parity_takes_the_steps_that_a_kind_says(asked, runs, what, steps):
    compare.compare(replace(asked, what=what, steps=20, parity=False), repeats=1)
    options = kind(what).OPTIONS.get("TRL", [])
    assert [one.steps for one in runs if one.parity] == [steps] * (2 * bool(steps) + 2 * bool(options))
    searched = len(options) + 2 * bool(options)  # the best two again
    assert [one.steps for one in runs if not one.parity] == [10] * searched + [20] * 2


def test_the_loss_before_any_update_is_not_all_that_is_compared(asked, runs):
    compare.compare(replace(asked, what="dpo", steps=1, parity=False), repeats=1)
    assert {one.steps for one in runs if one.parity} == {2} and {one.steps for one in runs if not one.parity} == {1}


def test_the_parity_of_a_setting_that_changes_the_order_is_not_asked(asked, runs, monkeypatch):
    settings = {"TRL": [{}, {"per_device_train_batch_size": 1, compare.REORDERS: "group_by_length"}]}
    monkeypatch.setattr(compare, "kind", lambda what: replace(kind("dpo"), OPTIONS=settings))
    found = compare.compare(replace(asked, what="dpo", parity=False), repeats=1)
    assert found["sides"]["TRL"]["option"] == settings["TRL"][1]
    assert [one.parity for one in runs] == [True] * 2 + [False] * 6


def test_a_search_takes_as_many_steps_as_its_kind_says(asked, runs):
    best_option(replace(asked, what="sampling", side="generate", steps=16), [{}, {"merged": True}])
    best_option(replace(asked, what="sft", side="TRL", steps=5), [{}])
    assert [one.steps for one in runs] == [16] * 4 + [3]


@pytest.mark.parametrize("device, wanted", [("cpu", 2), ("cuda", 1)])
def test_a_disturbed_run_is_not_what_a_setting_takes(asked, monkeypatch, device, wanted):
    """On a CPU by CPU time; of the first two the faster of two runs."""
    wall = {0: [9.0], 1: [3.0, 3.0], 2: [8.0, 4.0]}
    cpu = {0: [9.0], 1: [3.0, 2.8], 2: [3.5, 2.5]}
    seen = []

    def run(one):
        number = one.option["number"]
        seen.append(number)
        turn = min(seen.count(number), len(wall[number])) - 1
        return told(wall[number][turn], cpu_seconds=cpu[number][turn])

    monkeypatch.setattr(compare, "run", run)
    options = [{"number": number} for number in range(3)]
    best, tried = best_option(replace(asked, what="sft", side="TRL", device=device), options)
    assert best == options[wanted] and len(tried) == 5 and sorted(seen[3:]) == [1, 2]


def test_memory_of_a_gpu_is_what_was_allocated_there():
    run = {"peak_bytes": 500, "imported_bytes": 200}
    assert compare.memory({**run, "device_bytes": 0}) == 300 and compare.memory({**run, "device_bytes": 70}) == 70


def test_nothing_is_timed_where_the_sides_differ(asked, runs, monkeypatch):
    values = {"ours": [1.0, 2.0], "TRL": [1.0, 2.002]}
    monkeypatch.setattr(compare, "run", lambda one: runs.append(one) or told(1.0, values=values[one.side]))
    with pytest.raises(Apart, match="differ by 0.001"):
        compare.compare(replace(asked, what="dpo", parity=False), repeats=2)
    assert len(runs) == 2


def test_what_has_no_values_is_timed_at_once(asked, runs):
    found = compare.compare(replace(asked, what="ppo_dpo", parity=False), repeats=1)
    assert [one.side for one in runs] == ["ours", "our DPO"] and not any(one.parity for one in runs)
    assert found["parity"]["values"] == 0


def test_values_are_those_of_a_sides_first_setting(asked, runs):
    """Else DPO with the reference computed beforehand would be compared without it."""
    compare.compare(replace(asked, what="dpo_ref", parity=False), repeats=1)
    assert runs[1].parity and runs[1].option["precompute_ref_log_probs"]


def test_a_side_of_another_environment_runs_there_and_its_versions_are_told(asked, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '" + json.dumps(told(7.0, versions={"trl": "1.12.0"})) + "'\n")
    python.chmod(0o755)
    found = compare.run(replace(asked, what="ppo_trl", side=ppo_trl.ELSEWHERE, python=str(python)))
    assert found["seconds"] == 7.0 and found["versions"] == {"trl": "1.12.0"}
    sides = {"ours": {"versions": {"trl": "1.16.0"}}, "TRL 1.12.0": {"versions": found["versions"]}}
    assert elsewhere({"versions": {"trl": "1.16.0"}, "sides": sides}) == "; TRL 1.12.0 with trl 1.12.0"


def test_ppo_of_trl_is_left_out_without_its_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: None)
    assert command.main(["what=ppo_trl", "size=tiny", f"out={tmp_path}"]) == 0
    assert "ppo_trl tiny: left out" in (shown := capsys.readouterr().out) and "trl==1.12.0" in shown


def test_a_setting_that_fails_is_not_the_best_one(asked, runs):
    options = [{}, {"dataloader_num_workers": 1}, {"per_device_train_batch_size": 1}]
    best, tried = best_option(replace(asked, what="sft", side="TRL"), options)
    assert best == options[2] and [one["seconds"] for one in tried] == [3.0, None, 2.0, 2.0, 3.0]
    with pytest.raises(RuntimeError, match="none of its settings"):
        best_option(replace(asked, what="sft", side="TRL"), [{"dataloader_num_workers": 1}])


def test_differences_are_relative_and_all_are_compared():
    assert largest_difference({"a": [2.0, 1.0], "b": [2.0, 1.1]}) == pytest.approx(0.1 / 1.1)
    assert largest_difference({"a": [], "b": []}) == 0
    with pytest.raises(Apart, match="1 values of a for 2 of b"):
        largest_difference({"a": [1.0], "b": [1.0, 2.0]})


def test_ratios_are_of_runs_made_one_after_the_other():
    both = {"ours": [{"s": 1.0}, {"s": 2.0}, {"s": 4.0}], "other": [{"s": 2.0}, {"s": 6.0}, {"s": 4.0}]}
    assert ratio(both, lambda one: one["s"]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_memory_is_seen_from_outside_with_that_of_children():
    inner = "x = bytearray(96 << 20); import time; time.sleep(1)"
    outer = f"import subprocess, sys; x = bytearray(64 << 20); subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer])
    watch = Watch(process.pid)
    process.wait()
    assert 160 << 20 < watch.stop() < 260 << 20


def test_time_counts_what_stands_inside():
    watched = request.Answer()
    time.sleep(0.05)
    with watched.watched("cpu"):
        time.sleep(0.1)
    assert 0.1 <= watched.seconds < 0.15 + 0.5 and watched.cpu_seconds <= watched.seconds + 0.1


def test_pairs_are_read_again_where_they_are_not_enough(asked):
    rows = pairs(asked, 600)
    assert len(rows) == 600 and rows[512] == rows[0] != rows[1] and set(rows[0]) == {"prompt", "chosen", "rejected"}


def test_the_command_line():
    plan = command.parse(["what=dpo,ppo", "size=tiny", "repeats=3"])
    assert (plan.what, plan.size, plan.repeats, plan.device) == (("dpo", "ppo"), ("tiny",), 3, "cpu")
    assert set(command.Plan().what) == set(KINDS)
    assert plan.lengths == Lengths() and not plan.others
    other = command.parse(["prompt=8-40", "response=5-5"])
    assert other.lengths == Lengths((8, 40), (5, 5)) and other.others == ("8-40", "5-5")
    for wrong, word in (("whta=dpo", "no such setting"), ("prompt=64", "prompt, response: found"),
                        ("response=9-4", "found 9-4"), ("prompt=1-1000", "at most 512"),
                        ("what=dop", "found dop"), ("repeats=0", "above 0"), ("repeats=few", "above 0"),
                        ("device=tpu", "cpu, cuda"), ("response=9-400 size=5m,tiny", "of tiny"),
                        ("trl_ppo=/no/python", "found no program")):
        with pytest.raises(SystemExit, match=word):
            command.parse(["size=tiny", *wrong.split()])


def test_texts_have_the_lengths_that_are_asked_for(asked):
    """Words are tokens; a request that went through JSON asks for the same."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked.base)
    for text in pairs(asked, 50):
        for key, (first, last) in (("prompt", (16, 48)), ("chosen", (4, 24)), ("rejected", (4, 24))):
            assert first <= len(tokenizer(text[key], add_special_tokens=False).input_ids) <= last
    assert Request.read(json.dumps(asdict(asked))) == asked


def test_help_says_all(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*KINDS, *(field.name + " " for field in fields(command.Plan)), "tiny", "100m", "bf16"):
        assert word in shown


def test_a_page_of_nothing_has_a_head(tmp_path):
    assert page(tmp_path).startswith("# Speed")
