"""Where time goes: operators and functions in their groups, what is left over, and each part in small."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.profile import __main__ as command
from benchmarks.speed.profile import parts
from benchmarks.speed.profile.groups import FUNCTIONS, OPERATORS, OTHER, PRODUCTS, functions, group_of, operators
from benchmarks.speed.profile.page import loading_table, notes, operators_table, page, rest
from benchmarks.speed.profile.parts import PARTS, Phases, by_phase

SOFTMAX, COPIES, ELEMENTS = "softmax and log-sum-exp", "copies and casts", "element-wise and reductions"


@pytest.mark.parametrize("name, group", [
    ("aten::mm", PRODUCTS), ("aten::addmm", PRODUCTS), ("aten::bmm", PRODUCTS), ("aten::mul", ELEMENTS),
    ("aten::silu_backward", ELEMENTS), ("aten::copy_", COPIES), ("aten::cat", COPIES), ("aten::index_copy_", COPIES),
    ("aten::_to_copy", COPIES), ("aten::_log_softmax", SOFTMAX), ("aten::logsumexp", SOFTMAX), ("aten::view", "views"),
    ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"), ("Optimizer.step#AdamW.step", "optimiser"),
    ("aten::mm_new_kind", None), ("MulBackward0", None)])
def test_operators_have_groups_by_their_names(name, group):
    assert group_of(name, OPERATORS) == group


@pytest.mark.parametrize("name, group", [
    ("/x/json/decoder.py:raw_decode", "parse"), ("/x/data/records/json_rows.py:json_lines", "parse"),
    ("/x/data/records/columns.py:parts", "check"), ("/x/data/records/record.py:content_key", "hash"),
    ("~:<method 'update' of '_hashlib.HASH' objects>", "hash"), ("/x/data/records/storage.py:_batches", "write"),
    ("/x/data/records/record.py:meta_json", "write"), ("/x/data/records/answers.py:plain_texts", "check"),
    ("/x/data/template.py:example", "tokenise"), ("/x/support/phases.py:progress", None)])
def test_functions_have_groups_by_their_places(name, group):
    assert group_of(name, FUNCTIONS) == group


def event(name, micro, parent=None, flops=0):
    return SimpleNamespace(name=name, self_cpu_time_total=micro, self_device_time_total=2 * micro, cpu_parent=parent,
                           flops=flops)


def test_operators_are_added_up_and_the_largest_without_a_group_are_named():
    optimiser = event("Optimizer.step#AdamW.step", 5)
    events = [optimiser, event("aten::mul", 3, optimiser), event("aten::mul", 7), event("aten::mm", 10, flops=4000),
              event("aten::exp", 2, event("aten::logsumexp", 0)), event("aten::mul", 1, event("MulBackward0", 0)),
              *(event(f"odd{size}", size) for size in (1, 4, 3, 2))]
    found = operators(events, "cpu")
    micro = {group: round(1e6 * seconds) for group, seconds in found.seconds.items()}
    assert micro == {"optimiser": 8, ELEMENTS: 8, PRODUCTS: 10, SOFTMAX: 2, OTHER: 10}
    assert list(found.largest) == ["odd4", "odd3", "odd2"] and found.flop == 4000
    assert operators(events, "cuda").seconds[PRODUCTS] == pytest.approx(20e-6)


def test_a_builtins_time_is_its_callers():
    check, store = ("/x/data/records/columns.py", 1, "parts"), ("/x/data/records/storage.py", 1, "_batches")
    stats = {check: (1, 1, 3.0, 9.0, {}), store: (1, 1, 1.0, 2.0, {}), ("/y.py", 1, "odd"): (1, 1, 0.5, 1.0, {}),
             ("~", 0, "<built-in method builtins.len>"): (5, 5, 1.0, 1.0, {check: (4, 4, 0.75, 0.75),
                                                                           store: (1, 1, 0.25, 0.25)})}
    found = functions(stats)
    assert dict(found.seconds) == {"check": 3.75, "write": 1.25, OTHER: 0.5} and found.largest == {"odd": 0.5}


def test_operators_go_to_the_innermost_phase_and_products_have_their_flop():
    phases, one = Phases(torch.device("cpu")), torch.randn(32, 48)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as profiler:
        one @ one.T  # in no phase
        with phases.of("outer"):
            one @ one.T
            phases.around("inner", torch.mul)(one, one)
    found = by_phase(profiler.events(), "cpu")
    assert set(found) == {"outer", "inner"} and set(phases.seconds) == {"outer", "inner"}
    assert found["outer"].flop == 2 * 32 * 48 * 32 and not found["inner"].flop
    assert ELEMENTS in found["inner"].seconds and ELEMENTS not in found["outer"].seconds


# In small


@pytest.fixture
def small(monkeypatch):
    for name, value in {"PROMPT": 8, "RESPONSE": 4, "NEW_TOKENS": 4, "SAMPLES": 2, "SEQUENCES": 3, "ROWS": 20,
                        "PLAIN": 1, "STEPS": 1}.items():
        monkeypatch.setattr(parts, name, value)


@pytest.mark.parametrize("part, phases", [
    ("dpo", ["DPO step"]), ("decoding", ["decoding step"]), ("loading", ["loading"]),
    ("ppo", ["PPO, sampling", "PPO, scores", "PPO, log-probabilities", "PPO, values and advantages", "PPO, updates"])])
def test_a_part_is_measured_by_phase(small, part, phases, tmp_path):
    found = PARTS[part]("tiny", "cpu", "fp32", tmp_path)
    assert [one["phase"] for one in found["phases"]] == phases
    assert all(one["seconds"] > 0 and one["groups"] for one in found["phases"])
    if part == "loading":
        assert sum(found["phases"][0]["groups"].values()) == pytest.approx(found["phases"][0]["seconds"])
        assert {"parse", "check", "hash", "write", "tokenise"} <= set(found["phases"][0]["groups"])
    else:
        learning = part == "dpo" or found["phases"][-1]["phase"] == "PPO, updates"
        groups = found["phases"][-1]["groups"]
        assert ("optimiser" in groups) == learning and groups[PRODUCTS] > 0
        assert all(one["flop"] > 0 for one in found["phases"])


def test_the_prompts_of_decoding_are_not_counted(small, monkeypatch, tmp_path):
    """Of the same tokens, the products' FLOP are the same whatever the prompts' length."""
    flop = []
    for length in (8, 24):
        monkeypatch.setattr(parts, "PROMPT", length)
        flop.append(PARTS["decoding"]("tiny", "cpu", "fp32", tmp_path)["phases"][0]["flop"])
    assert flop[0] == flop[1] > 0


# The page


def phase(name="DPO step", seconds=2.0, **groups):
    return {"phase": name, "seconds": seconds, "groups": groups or {PRODUCTS: 1.0, "views": 0.5, OTHER: 0.1},
            "largest": {"odd": 0.1}, "flop": 5e9}


def test_a_table_by_hand():
    table = operators_table([{"part": "DPO", "unit": "step", "count": 4, "phases": [phase()]}], 2e10)
    lines = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1].removesuffix(" |")
             for line in table.splitlines() if " | " in line}
    assert lines[PRODUCTS] == "250 ms, 50 %" and lines["views"] == "125 ms, 25 %" and lines["attention"] == "0"
    assert lines[OTHER] == "25 ms, 5 %" and lines["other, Python included"] == "100 ms, 20 %"
    assert lines["measured without the profiler"] == "500 ms"
    assert lines["matrix products, GFLOP/s"] == "5, 25 %" and "20 GFLOP/s" in table


def test_what_is_left_is_never_below_nothing_and_it_is_said():
    over = phase(seconds=1.0, views=1.25)
    told = [{"part": "DPO", "unit": "step", "count": 1, "phases": [over]}]
    assert rest(over) == -0.25 and "| other, Python included | 0 |" in operators_table(told, 1e9)
    named, added = notes(told)
    assert named == "The most of other operators: DPO step: `odd` 10.0 %." and added.endswith("DPO step 25 %.")
    assert len(notes([{**told[0], "phases": [phase()]}])) == 1


def test_loading_by_hand():
    part = {"part": "loading", "count": 1000, "phases": [phase("loading", 0.5, parse=0.2, check=0.25, **{OTHER: 0.05})]}
    lines = loading_table(part).splitlines()
    assert "| parse | 200 µs | 40 % |" in lines and "| other functions | 50 µs | 10 % |" in lines
    assert lines[-1] == "| measured without the profiler | 500 µs | 100 % |"


def test_a_page_of_what_was_measured(tmp_path):
    found = {"size": "tiny", "device_kind": "cpu", "precision": "fp32", "device": "a cpu", "commit": "c",
             "versions": {"torch": "2"}, "product_rate": 1e9, "parts": [
                 {"part": "DPO", "unit": "step", "count": 1, "phases": [phase()]},
                 {"part": "loading", "unit": "record", "count": 10, "phases": [phase("loading", parse=2.0)]}]}
    (tmp_path / "tiny_cpu_fp32.json").write_text(json.dumps(found), encoding="utf-8")
    text = page(tmp_path)
    assert "## tiny, cpu, fp32" in text and "The most of other functions: loading: `odd` 5.0 %." in text
    assert "`python -m benchmarks.speed.profile size=tiny device=cpu precision=fp32`: a cpu; commit c; torch 2" in text


def test_the_command_line(capsys):
    for wrong, word in (("sise=5m", "no such setting"), ("size=8b", "found 8b"), ("device=tpu", "cpu, cuda")):
        with pytest.raises(SystemExit, match=word):
            command.main([wrong])
    assert command.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"{field} " in said for field in vars(command.Plan()))
    assert all(one in said for values in command.ALLOWED.values() for one in values)


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(small, tmp_path):
    assert command.main(["size=tiny", f"out={tmp_path}"]) == 0
    text = (tmp_path / "profile.md").read_text(encoding="utf-8")
    assert "| PPO, sampling |" in text and "| tokenise |" in text
