"""task=inspect says which methods a file can train and why others cannot, and shows a row as a model reads it."""

import json
import re

import pytest

from algorithms.common.data.records import Record
from algorithms.common.data.template import Example, Template
from algorithms.common.runs import tokens, trainable
from algorithms.common.runs.settings import build
from algorithms.common.runs.stages import Bench
from algorithms.common.support.store import Store
from command_line import CONF, composed, invoke

PAIRS = [{"prompt": f"Question {i}?", "chosen": "yes of course", "rejected": "no"} for i in range(20)]
KINDS = {
    "pairs": PAIRS,
    "thumbs": [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(20)],
    "ratings": [{"prompt": f"q{i}", "response": f"a{i}", "score": i % 5 + 1} for i in range(20)],
    "rankings": [{"prompt": f"q{i}", "responses": ["a", "b", "c"], "scores": [1, 2, 3]} for i in range(20)],
    "demonstrations": [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(20)],
    "prompts": [{"prompt": f"q{i}"} for i in range(20)],
}
COMPARING = {"dpo", "ipo", "hinge", "cpo", "simpo", "orpo", "slic", "reward_model", "trl_dpo"}
RATED = {"kto", "offline_pg", "trl_kto"}
IMITATING = {"sft", "trl_sft"}
ASKING = {"ppo", "ppo_penalty", "grpo", "dr_grpo", "rloo", "reinforce", "best_of_n", "rrhf", "trl_grpo", "dpo_online",
          "llama2_rejection", "raft", "rest", "rest_em", "rrhf_iterated"}
ABLE = {"pairs": COMPARING | RATED | IMITATING | ASKING,
        "rankings": COMPARING | RATED | IMITATING | ASKING | {"rating_model"},
        "thumbs": RATED | IMITATING, "ratings": RATED | IMITATING | {"rating_model"}, "demonstrations": IMITATING,
        "prompts": set()}


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judged(tmp_path, rows, *overrides, where=(CONF,)):
    """Method → verdict, and the lines that tell of all."""
    config = composed("data=file", f"data.path={written(tmp_path, rows)}", *overrides)
    parts = build(config, ("data", "model", "trainer", "eval", "reward"))
    bench = Bench(parts["model"], parts["trainer"], parts["eval"], parts["data"].load(0), 0, Store(tmp_path / "s"),
                  parts["reward"])
    found = trainable.verdicts(config, bench, list(where))
    return {one.method: one for one in found}, "\n".join(trainable.told(found))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_file_can_train(kind, tmp_path):
    found, told = judged(tmp_path, KINDS[kind])
    assert {name for name, one in found.items() if one.why_not is None} == ABLE[kind]
    assert {name for name, one in found.items() if one.through and not one.why_not} == ABLE[kind] & ASKING
    assert all(name in told for name in found), "each is spoken of"
    if kind == "pairs":
        assert "18 comparisons to learn from; cpo, dpo, " in told
        assert "18 prompts, with a reward model that these data train first" in told
    if kind == "thumbs":
        assert "trl_dpo cannot: no comparisons (two responses to a prompt, one of them better)\n" in told
        assert "rating_model cannot: " in told and "fix: algorithm.lowest=0 algorithm.bins=2" in told
        assert found["ppo"].why_not == (
            "no comparisons for the reward model (reward=function and reward=classifier need none)")


def test_what_is_said_to_do_without_does(tmp_path, monkeypatch):
    found, _ = judged(tmp_path, KINDS["prompts"])
    why_not = found["grpo"].why_not
    assert why_not.startswith("no demonstrations for the reference model (the base instead: algorithm.needs.reference=")
    (tmp_path / "own_reward.py").write_text("def score(responses):\n    return [0.0] * len(responses)\n")
    monkeypatch.syspath_prepend(tmp_path)
    reward = ["reward=function", "reward.function._target_=own_reward.score"]
    assert "reward=function" in why_not and "for the reward model" not in judged(
        tmp_path, KINDS["prompts"], *reward)[0]["grpo"].why_not
    keys = re.findall(r"\S+(?==null)", why_not)
    assert keys == ["algorithm.needs.reference", "reward.algorithm.needs.reference"]
    parts = build(composed("algorithm=grpo", *(f"{key}=null" for key in keys)), ("algorithm", "reward"))
    assert parts["algorithm"].needs == {"reference": None} == parts["reward"].algorithm.needs
    own = tmp_path / "conf/algorithm"
    own.mkdir(parents=True)
    (own / "grpo_base.yaml").write_text("defaults: [grpo, _self_]\nneeds: {reference: null}\n")
    assert judged(tmp_path, KINDS["prompts"], *reward, where=(tmp_path / "conf", CONF))[0]["grpo_base"].why_not is None


def test_another_reward_asks_for_other_data(tmp_path, monkeypatch):
    (tmp_path / "own_reward.py").write_text("def score(responses):\n    return [0.0] * len(responses)\n")
    monkeypatch.syspath_prepend(tmp_path)
    found, _ = judged(tmp_path, KINDS["demonstrations"], "reward=function",
                      "reward.function._target_=own_reward.score")
    assert found["grpo"].why_not is None and found["best_of_n"].why_not is None
    assert "algorithm.critic" in found["ppo"].why_not, "its critic starts from a reward model, by its own check"


def test_a_method_of_ones_own_is_spoken_of(tmp_path):
    own = tmp_path / "conf/algorithm"
    own.mkdir(parents=True)
    (own / "dpo_sharp.yaml").write_text("defaults: [dpo, _self_]\nbeta: 0.9\n")
    (own / "broken.yaml").write_text("defaults: [/algorithm/dpo@_here_, _self_]\nbeta: -1\n")
    found, _ = judged(tmp_path, PAIRS, where=(tmp_path / "conf", CONF))
    assert found["dpo_sharp"].why_not is None and found["broken"].why_not.startswith("algorithm.beta: found -1")


def inspected(tmp_path, rows, *overrides):
    ended = invoke("task=inspect", "data=file", f"data.path={written(tmp_path, rows)}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/stages", *overrides)
    assert ended.status == 0, ended.err
    return ended.out, json.loads((tmp_path / "run/data.json").read_text())


def test_tokens_and_a_row_under_a_models_tokenizer(tmp_path):
    out, report = inspected(tmp_path, [*PAIRS, {"prompt": "word " * 400, "chosen": "a", "rejected": "b"}], "model=tiny",
                            "data.heldout=0")
    sets = report["tokens"]["sets"]
    assert sets["preferences"]["truncated"] == 1 and sets["preferences"]["records"] == 21
    assert sets["preferences"]["prompt"]["max"] >= 400 and "1 cut" in out
    assert "\n  <bos>Question " in out and "»yes of course<eos>«" in out and "[score 0] »no<eos>«" in out
    out, report = inspected(tmp_path, PAIRS)
    assert "18 comparisons to learn from; cpo, dpo, " in out
    assert {one["method"] for one in report["methods"] if one["why_not"]} == {"rating_model"}
    assert "tokens" not in report and "»" not in out, "without a model no tokenizer counts"


def test_a_shown_row_hides_secrets_where_it_is_cut_too(tmp_path, monkeypatch):
    secret = "sk-1234567890abcdef"
    monkeypatch.setenv("PLANTED", secret)
    (tmp_path / secret).mkdir()
    rows = [{"prompt": "x" * (tokens.CHARACTERS // 2 - 20) + " " + secret + f" {i}" + " y" * 400, "chosen": "a",
             "rejected": "b"} for i in range(6)]
    written(tmp_path / secret, rows)
    out, report = inspected(tmp_path, rows, "model=tiny", "model.max_length=2048", "model.max_prompt_length=2000",
                            f"data.path={tmp_path}/${{oc.env:PLANTED}}/rows.jsonl")
    assert "***" in report["row"] and secret[:8] not in out + report["row"]


def test_learned_parts_are_marked_where_a_row_has_several(tokenizer):
    template = Template(tokenizer)
    talk = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"}]
    learned = template.example(Record(talk, ["four"]), 99, 50, every_turn=True)
    prompt, row = tokens.marked(template, learned)
    assert prompt.startswith("<bos>") and row.count("»") == row.count("«") == 2
    assert "two" in row[row.index("»"):row.index("«")] and "four" in row[row.rindex("»"):row.rindex("«")]
    assert "three" not in "".join(part.partition("«")[0] for part in row.split("»")[1:])
    bare = Example([5, 6], [], [], None, "key")
    assert tokens.marked(template, bare) == [tokenizer.decode([5, 6])]


def test_long_rows_are_shown_in_part():
    text = tokens.shown("a" * 3000)
    assert len(text) < 1300 and "1,800 characters" in text and tokens.shown("short") == "short"
