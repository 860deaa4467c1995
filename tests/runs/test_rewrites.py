"""Rewriting instructions end to end: a scripted model proposes, a rewriter is trained, both answers are judged."""

import json

import pandas as pd
import pytest

from algorithms.common.data.records import FileData
from algorithms.common.data.rewriting import MARK, OTHER, UNMARKED
from algorithms.common.evaluation.verdicts import finished_runs, read
from algorithms.common.evaluation.verdicts.endpoint import EndpointJudge
from algorithms.common.models.sampling import Sampling
from algorithms.common.runs import rewrites, rewritten
from algorithms.common.runs.rewrites import AGAIN, TURNS, UNASKED
from command_line import invoke
from served_judge import serving

QUIET = ["trainer.mixed_precision=no", "trainer.progress=false"]
ROOM = ["model.max_length=1024", "model.max_prompt_length=512", "rewriting.sampling.max_new_tokens=256"]


def pairs(tmp_path, count=6):
    rows = [{"prompt": f"Tell me of meal {n}.", "chosen": "It was good.", "rejected": "No."} for n in range(count)]
    rows += [{"prompt": rows[0]["prompt"], "chosen": "Nice.", "rejected": "Bad."},
             {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
              "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"data.path={path}"


def proposing(text):
    """The proposal to a question, by the number of its meal."""
    number = int(text.partition("Tell me of meal ")[2][0])
    return {1: "A long story.", 2: f"{MARK} Soup is good."}.get(
        number, f"Better since longer.\n{MARK} Tell me of meal {number} in detail.")


def scripted(models, role, prompts, sampling, number, count=1, salt=""):
    texts = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in prompts]
    return [[(proposing(text), True)] * count for text in texts]


def test_proposals_become_demonstrations(tmp_path, monkeypatch):
    monkeypatch.setattr(rewrites, "answers", scripted)
    ended = invoke("task=rewrites", "data=file", pairs(tmp_path), "data.heldout=0", *QUIET, *ROOM,
                   f"hydra.run.dir={tmp_path / 'made'}")
    assert ended.status == 0, ended.err
    told = json.loads((tmp_path / "made/rewrites.json").read_text())
    assert (told["asked"], told["kept"], told["passed_over"]) == (6, 4, {AGAIN: 1, TURNS: 1})
    assert {why: n for why, n in told["dropped"].items() if n} == {UNMARKED: 1, OTHER: 1}
    dropped = [json.loads(line) for line in (tmp_path / "made/dropped.jsonl").read_text().splitlines()]
    assert [(row["prompt"], row["reason"]) for row in dropped] == [
        ("Tell me of meal 1.", UNMARKED), ("Tell me of meal 2.", OTHER)] and dropped[0]["said"] == "A long story."
    records, _ = FileData(str(tmp_path / "made/rewrites.jsonl"), chat=True,
                          columns={"prompt": "prompt", "response": "optimized_prompt"}).records()
    assert [(record.prompt[0]["content"], record.responses) for record in records][:2] == [
        (f"Tell me of meal {n}.", [f"Tell me of meal {n} in detail."]) for n in (0, 3)]


def test_held_out_comparisons_are_not_asked_about(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(rewrites, "answers", lambda models, role, prompts, *more: asked.extend(prompts) or scripted(
        models, role, prompts, *more))
    assert invoke("task=rewrites", "data=file", pairs(tmp_path), "data.heldout=0.5", *QUIET, *ROOM,
                  f"hydra.run.dir={tmp_path / 'made'}").status == 0
    assert 0 < len(asked) < 6


def test_a_question_is_never_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(rewrites, "answers", scripted)
    none = invoke("task=rewrites", "data=file", pairs(tmp_path), "data.heldout=0", *QUIET, "model.max_length=160",
                  "rewriting.sampling.max_new_tokens=32", f"hydra.run.dir={tmp_path / 'made'}")
    assert none.status == 2 and "task: found no proposal to keep of 6; expected some; fix: see why in" in none.err
    assert json.loads((tmp_path / "made/rewrites.json").read_text())["dropped"][UNASKED] == 6


def test_an_endpoint_proposes(tmp_path):
    pytest.importorskip("openai")
    with serving(lambda messages, number: proposing(messages[0]["content"])) as served:
        judge = ["judge=openai", "judge.model=some/m", f"judge.url={served.url}"]
        common = ["task=rewrites", "data=file", pairs(tmp_path), "data.heldout=0", *judge,
                  f"stages.folder={tmp_path / 'stages'}"]
        for name in ("first", "again"):
            ended = invoke(*common, f"hydra.run.dir={tmp_path / name}")
            assert ended.status == 0, ended.err
        assert len(served.questions) == 6, "what was answered is kept"
    made = [(tmp_path / name / "rewrites.jsonl").read_text() for name in ("first", "again")]
    assert made[0] == made[1] and len(made[0].splitlines()) == 4


def test_an_endpoint_writes_as_long_as_a_proposal_is():
    sampling = Sampling(max_new_tokens=300, temperature=0.6)
    for own, expected in ((0.0, 0.6), (None, None)):
        found = rewrites._writing(EndpointJudge("some/m", temperature=own), sampling)
        assert (found.model, found.max_tokens, found.temperature) == ("some/m", 300, expected)


def test_an_endpoint_that_does_not_answer_keeps_what_was_answered(tmp_path):
    pytest.importorskip("openai")

    def behave(messages, number):
        text = messages[0]["content"]
        return (lambda handler: handler.connection.close()) if "meal 5" in text else proposing(text)

    with serving(behave) as served:
        ended = invoke("task=rewrites", "data=file", pairs(tmp_path), "data.heldout=0", "judge=openai", "judge.tries=1",
                       "judge.model=some/m", f"judge.url={served.url}", f"stages.folder={tmp_path / 'stages'}",
                       f"hydra.run.dir={tmp_path / 'made'}")
    assert ended.status == 2 and ended.err.startswith("judge.url: found no answer to 1 of 6 questions (")


def test_what_it_refuses(tmp_path):
    wrong = invoke("task=rewrites", "data=file", pairs(tmp_path), "judge=scorer", f"hydra.run.dir={tmp_path / 'a'}")
    assert wrong.status == 2 and wrong.err.startswith("judge: found ScorerJudge; expected an endpoint, or none, where")
    path = tmp_path / "bare.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}\n', encoding="utf-8")
    none = invoke("task=rewrites", "data=file", f"data.path={path}", f"hydra.run.dir={tmp_path / 'b'}")
    assert none.status == 2 and none.err.startswith("data: found no comparison of answers to a single instruction")


def test_answers_to_both_instructions_are_judged_beside_the_one_as_it_is(tmp_path, monkeypatch):
    """The rewriter adds three words, and of one instruction makes nothing; what is rewritten is answered well."""
    def answers(models, role, prompts, sampling, number, count=1, salt=""):
        assert role == ("rewriter" if salt == "rewriter/" else "base")
        if salt == "rewriter/":
            return [[("" if "meal 0" in prompt else f"{prompt} In some detail.", True)] for prompt in prompts]
        said = ["good soup" if "detail" in prompt else "soup" for prompt in prompts]
        return [[(text, True)] * count for text in said]

    monkeypatch.setattr(rewritten, "answers", answers)
    folder = tmp_path / "both"
    ended = invoke("task=rewritten", "data=file", pairs(tmp_path, 4), "data.heldout=0.9", "eval.samples=2", *QUIET,
                   f"hydra.run.dir={folder}")
    assert ended.status == 0, ended.err
    told = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "instructions.jsonl").read_text().splitlines()]
    assert told["rewriting"]["prompts"] == len(lines) and told["rewriting"]["unchanged"] == 0
    assert told["rewriting"]["empty"] == sum(line["rewritten"] == line["prompt"] for line in lines)
    (run,) = finished_runs(folder)
    assert set(run.answers["prompt"]) == {line["prompt"] for line in lines} and len(run.answers) == 2 * len(lines)
    assert set(run.references["start"]["response"]) == {"soup"} and {"start", "data"} == set(run.references)

    pytest.importorskip("openai")
    asked = []

    def honest(messages, number):
        text = messages[0]["content"]
        asked.append(text)
        return "A" if text.partition("=== Reply A\n")[2].startswith("good") else "B"

    with serving(honest) as served:
        judged = invoke("task=judge", f"runs={folder}", "judge=openai", "judge.model=some/m", f"judge.url={served.url}",
                        "verdicts.against=start", f"stages.folder={tmp_path / 'stages'}",
                        f"hydra.run.dir={tmp_path / 'judged'}")
    assert judged.status == 0, judged.err
    assert "against what training began with" in judged.out and "rewritten" in judged.out
    assert asked and not any("In some detail." in text for text in asked), "the judge reads the instruction as it is"
    verdicts = pd.DataFrame([vars(one) for one in read(folder / "verdicts.parquet")])
    better = verdicts[verdicts["left_response"] == "good soup"]
    assert set(better["order"]) == {"left_first", "right_first"} and set(better["outcome"]) == {"left"}


@pytest.mark.slow
def test_from_preferences_to_a_judged_rewriter(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(rewrites, "answers", scripted)
        assert invoke("task=rewrites", "data=file", pairs(tmp_path), "data.heldout=0", *QUIET, *ROOM,
                      f"hydra.run.dir={tmp_path / 'made'}").status == 0
    trained = invoke("algorithm=sft", "data=bpo", f"data.path={tmp_path / 'made/rewrites.jsonl'}", "data.heldout=0.3",
                     "recipe.steps=1", "recipe.batch_size=2", "eval.prompts=1", "eval.sampling.max_new_tokens=4",
                     *QUIET, f"stages.folder={tmp_path / 'stages'}", f"hydra.run.dir={tmp_path / 'rewriter'}")
    assert trained.status == 0, trained.err
    for name, target in (("own", []), ("other", ["+model@rewriting.target=tiny"])):
        ended = invoke("task=rewritten", "data=file", pairs(tmp_path), "data.heldout=0.5", *QUIET, *target,
                       f"adapter={tmp_path / 'rewriter'}", "rewriting.sampling.max_new_tokens=8",
                       "eval.sampling.max_new_tokens=6", f"hydra.run.dir={tmp_path / name}")
        assert ended.status == 0, ended.err
    one, other = (finished_runs(tmp_path / name)[0].answers for name in ("own", "other"))
    assert list(one["response"]) == list(other["response"]), "the rewriter's base untouched is the target"
