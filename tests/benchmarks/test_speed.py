"""The benchmark beside TRL: both sides compute the same before anything is timed, and decode and train as much."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from benchmarks.random_models import SHAPES
from benchmarks.speed import compare, dpo, ppo_trl, request, reward, sampling
from benchmarks.speed.compare import largest_difference, options_of
from benchmarks.speed.prepare import prepare
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.side import KINDS, answer, kind
from benchmarks.speed.texts import pairs
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
