"""Judges: what a language model says is read and never guessed, whatever its server does; both orders are asked."""

import dataclasses
import re
import shutil
from dataclasses import dataclass

import pytest
import torch

from algorithms.common.evaluation.verdicts import Pair
from algorithms.common.evaluation.verdicts.belief import Belief, belief, beliefs
from algorithms.common.evaluation.verdicts.endpoint import EndpointJudge, Spent
from algorithms.common.evaluation.verdicts.local import LocalJudge, left_shares
from algorithms.common.evaluation.verdicts.scorer import ScorerJudge
from algorithms.common.evaluation.verdicts.wording import question, verdict_of
from algorithms.common.models.model import Lora, ModelConfig
from algorithms.common.rewards.sources import Function, Gold, Trained
from algorithms.common.support.errors import ConfigError, UserError
from algorithms.common.support.store import Store
from served_judge import FAULTS, busy, half_sentence, honest, sent, serving
from stage_setup import LAB

# What is said


@pytest.mark.parametrize("said, verdict", [
    ("A", "A"), (" b", None), ("A: A\n", "A"), ("A:", "A"), ("B.", "B"), ("**B**", "B"), ("(A).", "A"), ("tie", "TIE"),
    ("A is the correct", "A"), ("The answer is A", "A"), ("Answer: B", "B"), ("Reply B is better.", "B"),
    ("B, because it answers", "B"), ("A\n\nIt is right.", "A"), ("<think>A or B?</think>\nA", "A"),
    ("My verdict: reply A", "A"), ("I'm sorry for", None), ("You've already provided", None), ("", None),
    ("A good answer would", None), ("A or B", None),
    ("B is not better", None), ("B is worse", None), ("A is", None), ("A,B", None), ("AB", None), ("a", None),
    ("The answer is a", None), ("<think>A is", None), ("As an AI", None), ("Neither", None),
    ("The better reply is", None)])
def test_a_verdict_is_read_where_it_is_said_in_so_many_words(said, verdict):
    assert verdict_of(said) == verdict


@pytest.mark.parametrize("said, verdict", [
    ("A", None), ("The better one is A", None), ("Answer: **B**", None), ("tie", None), ("A: A\n", "A"), ("B.", "B"),
    ("A\n\nIt is", "A"), ("Reply B is better, since", "B"), ("A is better than B", None)])
def test_the_last_word_of_a_reply_that_was_cut_is_no_verdict(said, verdict):
    assert verdict_of(said, cut=True) == verdict


def test_answers_cannot_write_the_question():
    text = question("v1", "ask {second}", "one {prompt}", "two \\1 {first}", tie=True)
    assert all(part in text for part in ("\nask {second}\n", "\none {prompt}\n", "\ntwo \\1 {first}\n", "TIE"))
    assert "TIE" not in question("v1", "", "", "", tie=False)
    with pytest.raises(ConfigError, match="judge.prompt: found 'v0'; expected v1"):
        EndpointJudge("m", prompt="v0")


# A server


@dataclass
class Court:
    store: Store
    seed: int = 0
    mixed_precision: str = "no"


def pairs(count):
    return [Pair(f"p{i}", f"Question {i}?", "0", f"good {i}", "start", f"bad {i}") for i in range(count)]


def judge(url, **settings):
    pytest.importorskip("openai", reason="the extra judge is not installed")
    return EndpointJudge("some/m", url, **{"wait": 0.01, "timeout": 5.0, "tries": 4, **settings})


def outcomes(judge, asked, store):
    return [(one.prompt_id, one.order, one.outcome) for part in judge.judge(asked, Court(store)) for one in part]


BOTH = [("left_first", "left"), ("right_first", "left")]


def all_left(count):
    return [(f"p{i}", *both) for i in range(count) for both in BOTH]


def test_a_good_server_is_asked_once_in_each_order_and_never_again(tmp_path, caplog):
    with serving(honest) as served:
        asked = judge(served.url, price_input=2.0, price_output=10.0)
        caplog.set_level("INFO")
        assert outcomes(asked, pairs(9), Store(tmp_path)) == all_left(9)
        assert len(served.questions) == len(set(served.questions)) == 18
        assert "18 calls answered, 0 failed, 0 replies kept from before; 1800 tokens in, 36 out, cost 0.0040" in \
            caplog.text
        assert outcomes(asked, pairs(9), Store(tmp_path)) == all_left(9)
        assert len(served.questions) == 18 and "0 calls answered, 0 failed, 18 replies kept" in caplog.text
        assert outcomes(judge(served.url, temperature=1.0), pairs(1), Store(tmp_path)) == all_left(1)
        assert len(served.questions) == 20, "another temperature is another question"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_costs_no_verdict(fault, tmp_path):
    with serving(lambda messages, number: FAULTS[fault] if number == 1 else honest(messages)) as served:
        asked = judge(served.url, timeout=0.3 if fault == "slow" else 5.0)
        assert outcomes(asked, pairs(2), Store(tmp_path)) == all_left(2)
        assert len(served.questions) == 8


def test_what_was_never_answered_has_no_verdict_and_is_asked_again(tmp_path, caplog):
    def behave(messages, number):
        return busy if "Question 1" in messages[0]["content"] and messages[0]["content"].find("good") < \
            messages[0]["content"].find("bad") else honest(messages)

    with serving(behave) as served:
        assert outcomes(judge(served.url), pairs(3), Store(tmp_path)) == all_left(1) + [("p2", *both) for both in BOTH]
        assert "no answer on 1 pairs (HTTP 429" in caplog.text
        assert len(served.questions) == 5 + 4, "as many tries as there are"
    with serving(honest) as served:
        asked = judge(served.url)
        assert outcomes(asked, pairs(3), Store(tmp_path)) == all_left(3)


def refusing(*questions):
    """Does not take what mentions one of these; answers the others."""
    def behave(messages, number):
        refused = any(one in messages[0]["content"] for one in questions)
        return (lambda handler: sent(handler, 400, b'{"detail": "too long"}')) if refused else honest(messages)

    return behave


def test_a_server_that_comes_back_as_another_refuses_no_question(tmp_path):
    """As one does that holds another model: the replies that are kept say nothing of what it answers."""
    behave, found = [honest], []
    with serving(lambda *asked: behave[-1](*asked)) as served:
        asked = judge(served.url, parallel=1)
        assert outcomes(asked, pairs(1), Store(tmp_path)) == all_left(1)
        behave.append(refusing(""))
        with pytest.raises(UserError, match="found 6 questions refused: HTTP 400.*what was judged is kept"):
            for part in asked.judge(pairs(4), Court(Store(tmp_path))):
                found += part
        assert [(one.prompt_id, one.order, one.outcome) for one in found] == all_left(1)
        behave.append(honest)
        assert outcomes(asked, pairs(4), Store(tmp_path)) == all_left(4)


def test_a_question_that_is_refused_has_no_verdict_and_is_not_asked_again(tmp_path, caplog):
    with serving(refusing("Question 0?")) as served:
        asked = judge(served.url)
        (found,) = asked.judge(pairs(2), Court(Store(tmp_path)))
        assert [(one.prompt_id, one.outcome) for one in found] == \
            [("p0", "none"), ("p0", "none"), ("p1", "left"), ("p1", "left")]
        assert found[0].raw == 'refused: HTTP 400: {"detail": "too long"}'
        assert len(served.questions) == 5, "and one that tells whether it answers any"
        assert set().union(*map(asked.asks, pairs(2))) == {one.asked for one in found}, "all are done"
        assert "2 questions were refused by the server; they have no verdict, and are not asked again" in caplog.text


def test_one_that_is_refused_after_its_first_reply_keeps_it(tmp_path):
    def behave(messages, number):
        return "I think" if len(messages) == 1 else lambda handler: sent(handler, 422, b"no")

    with serving(behave) as served:
        (found,) = judge(served.url).judge(pairs(1), Court(Store(tmp_path)))
    assert {(one.outcome, one.raw) for one in found} == {("none", "I think\n---\nrefused: HTTP 422: no")}


def test_where_nothing_is_answered_no_refusal_is_kept(tmp_path):
    """max_tokens that no model of the server takes says nothing of the questions."""
    found = []
    message = "judge: found 8 questions refused: HTTP 400.*, and no answer to a short one; .*fix: see to judge.max_tok"
    with serving(refusing("")) as served, pytest.raises(UserError, match=message):
        for part in judge(served.url, parallel=1).judge(pairs(9), Court(Store(tmp_path))):
            found += part
    assert found == [] and len(served.questions) == 9, "and one that tells whether it answers any"
    with serving(refusing("Question 4", "Question 5", "Question 6", "Question 7", "Question 8")) as served:
        found = outcomes(judge(served.url, parallel=1), pairs(9), Store(tmp_path))
    assert found == all_left(4) + [(f"p{i}", order, "none") for i in range(4, 9) for order, _ in BOTH]


@pytest.mark.parametrize("status, body", [
    (401, b'{"error": {"message": "Incorrect key: sk-secret-1"}}'), (404, b"no model"),
    (429, b'{"error": {"code": "insufficient_quota", "message": "pay"}}')])
def test_what_no_try_changes_stops_at_once_and_keeps_what_was_judged(status, body, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")

    def behave(messages, number):
        refused = "Question 7" in messages[0]["content"]
        return (lambda handler: sent(handler, status, body)) if refused else honest(messages)

    with serving(behave) as served:
        found = []
        with pytest.raises(UserError, match=f"HTTP {status}.*run the same command again") as stopped:
            for part in judge(served.url, parallel=1).judge(pairs(20), Court(Store(tmp_path))):
                found += part
        assert {one.prompt_id for one in found} == {f"p{i}" for i in range(7)}
        assert "sk-secret" not in str(stopped.value) and len(served.questions) < 20


def test_a_server_that_is_not_there_is_said(tmp_path):
    with serving(honest) as served:
        gone = served.url
    with pytest.raises(UserError, match="judge.url: found no answer to any of 2 pairs .*APIConnectionError"):
        outcomes(judge(gone, tries=2), pairs(2), Store(tmp_path))


def test_what_cannot_be_read_is_asked_for_once_more_and_then_counted(tmp_path, caplog):
    caplog.set_level("INFO")

    def behave(messages, number):
        if "Question 0" in messages[0]["content"]:
            return "The better reply is" if len(messages) == 1 else "A good question"
        return "I think" if len(messages) == 1 else honest(messages)

    with serving(behave) as served:
        asked = judge(served.url)
        (found,) = asked.judge(pairs(2), Court(Store(tmp_path)))
        assert [one.outcome for one in found] == ["none", "none", "left", "left"]
        assert found[0].raw == "The better reply is\n---\nA good question" and found[0].judge == asked.name
        assert len(served.questions) == 8 and "2 without a verdict" in caplog.text


def test_half_a_sentence_is_asked_for_again(tmp_path):
    """What the limit of tokens cut off: the whole sentence would have been "The better one is A or B, I cannot say"."""
    def behave(messages, number):
        return half_sentence if len(messages) == 1 else honest(messages)

    with serving(behave) as served:
        (found,) = judge(served.url).judge(pairs(1), Court(Store(tmp_path)))
        assert [(one.outcome, one.raw) for one in found] == [("left", "The better one is A\n---\nA"),
                                                            ("left", "The better one is A\n---\nB")]
        (again,) = judge(served.url).judge(pairs(1), Court(Store(tmp_path)))
        assert [one.raw for one in again] == [one.raw for one in found] and len(served.questions) == 4


def test_a_judge_of_position_contradicts_itself(tmp_path):
    with serving(lambda messages, number: "A") as served:
        assert [one[2] for one in outcomes(judge(served.url), pairs(1), Store(tmp_path))] == ["left", "right"]


@pytest.mark.parametrize("settings, message", [
    ({"url": "http://me:secret@host/v1"}, "judge.url: found http://host…"), ({"url": "host:80"}, "judge.url: found"),
    ({"parallel": 0}, "judge.parallel: found 0; expected at least 1"), ({"timeout": 0.0}, "judge.timeout: found 0.0"),
    ({"price_input": -1.0}, "judge.price_input")])
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as refused:
        EndpointJudge("m", **settings)
    assert "secret" not in str(refused.value)


def test_the_key_comes_from_the_environment_alone(monkeypatch):
    pytest.importorskip("openai", reason="the extra judge is not installed")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="fix: export OPENAI_API_KEY"):
        EndpointJudge("m").check()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    EndpointJudge("m").check()
    assert EndpointJudge("m", price_input=1.0).cost(Spent(input=5)) is None


# Log-probabilities of a local model


def test_shares_of_both_orders_by_hand():
    """Order AB log-probabilities [-.4, -1.3], order BA [-.9, -.7], where the first answer is B."""
    letters = torch.tensor([[[-0.4, -1.3], [-0.7, -0.9]]], dtype=torch.float64)
    first, second = left_shares(letters)[0].tolist()
    assert (first, second) == pytest.approx((0.710950, 1 - 0.549834), abs=1e-6)
    letters = torch.tensor([[[-0.4, -1.3], [-0.9, -0.7]]], dtype=torch.float64)
    assert left_shares(letters)[0].mean().item() == pytest.approx(0.630392, abs=1e-6)


@pytest.fixture
def local(make_models, monkeypatch):
    """A judge over a random model without a chat template."""
    def make(max_length=600, **options):
        settings = {"name": "some/random", "precision": "fp32", "lora": None, "max_length": max_length,
                    "max_prompt_length": max_length - 8, "gradient_checkpointing": False}
        models = make_models(lora=None, max_length=max_length, max_prompt_length=max_length - 8, positions=1024)
        monkeypatch.setattr("algorithms.common.evaluation.verdicts.local.Models", lambda *given: models)
        monkeypatch.setattr("algorithms.common.evaluation.verdicts.local.model_digest", lambda config: "0" * 64)
        return LocalJudge(ModelConfig(**settings), **options), models

    return make


def test_a_local_judge_compares_the_letters_in_both_orders(local, tmp_path):
    asked, models = local(batch_size=2)
    found = [one for part in asked.judge(pairs(3), Court(Store(tmp_path))) for one in part]
    expected = [(f"p{i}", order) for i in range(3) for order in asked.orders]
    assert [(one.prompt_id, one.order) for one in found] == expected
    for one in found:
        texts = (one.left_response, one.right_response) if one.order == "left_first" else \
            (one.right_response, one.left_response)
        text = question("v1", one.prompt, *texts, tie=False) + "\n"
        logits = []
        for letter in "AB":
            ids = models.template.prompt_ids(text) + models.template.response_ids(text, letter)
            length = len(models.template.response_ids(text, letter))
            states = models.roles.module(torch.tensor([ids])).logits[0].log_softmax(-1)
            logits.append(sum(states[place - 1, ids[place]].item() for place in range(len(ids) - length, len(ids))))
        a_wins = logits[0] > logits[1]
        assert abs(logits[0] - logits[1]) > 1e-3, "rounding decides nothing here"
        assert one.outcome == ("left" if a_wins == (one.order == "left_first") else "right")
        assert one.judge == asked.name and one.raw.startswith("left 0.")


def test_a_question_that_does_not_fit_has_no_verdict(local, tmp_path, caplog):
    asked, _ = local(max_length=60)
    (found,) = asked.judge(pairs(1), Court(Store(tmp_path)))
    assert [one.outcome for one in found] == ["none", "none"] and "more than 60 tokens" in found[0].raw
    assert "2 questions had more than judge.model.max_length = 60" in caplog.text
    assert all(asked.answered(one) for one in found), "it is as long as it was"
    roomy, _ = local(max_length=600)
    assert roomy.name == asked.name and not any(roomy.answered(one) for one in found)
    (again,) = roomy.judge(pairs(1), Court(Store(tmp_path)))
    assert {one.outcome for one in again} <= {"left", "right"} and all(asked.answered(one) for one in again)


def test_a_local_judge_learns_nothing():
    with pytest.raises(ConfigError, match="judge.model.lora: found adapters"):
        LocalJudge(ModelConfig("m", lora=Lora()))
    LocalJudge(ModelConfig("m", precision="nf4", lora=None))


# Scores


def test_a_scorer_prefers_the_higher_score():
    class Scored:
        def identity(self, source, run):
            return "00"

        def belief(self, source, run):
            return None

        def scores(self, source, asked):
            return [(1.0, 0.5), (0.0, 0.0), (-1.0, 0.0)]

    (found,) = ScorerJudge(Gold(), "gold").judge(pairs(3), Scored())
    assert [(one.outcome, one.left_score, one.right_score, one.order) for one in found] == [
        ("left", 1.0, 0.5, "both"), ("tie", 0.0, 0.0, "both"), ("right", -1.0, 0.0, "both")]
    with pytest.raises(ConfigError, match="judge.called"):
        ScorerJudge(Gold(), "a/b")
    assert (ScorerJudge(Gold()).name, ScorerJudge(Function(len)).name) == ("gold", "function")
    assert ScorerJudge(Trained(None, None)).name == "trained" and ScorerJudge(Gold(), "truth").name == "truth"


def test_a_scorer_is_not_answered_by_another_of_its_name():
    class Scored:
        def __init__(self, told="one", believed=None):
            self.told, self.believed = told, believed

        def identity(self, source, run):
            return self.told if run == "0" else None

        def belief(self, source, run):
            return self.believed

        def scores(self, source, asked):
            return [(1.0, 0.5)] * len(asked)

    judge = ScorerJudge(Gold(), "mine")
    (kept,) = judge.judge(pairs(2), Scored())
    judge.check_kept(kept, Scored())
    judge.check_kept([dataclasses.replace(one, left="gone") for one in kept], Scored())
    other = Scored("other")
    ScorerJudge(Gold(), "mine_2").check_kept(kept, other)
    with pytest.raises(ConfigError, match="judge.called: found verdicts of mine by a scorer of other.*=mine_2"):
        judge.check_kept(kept, other)
    judge.check_kept([dataclasses.replace(one, raw=None) for one in kept], other)  # written before a scorer was told
    (kept,) = judge.judge(pairs(2), Scored(believed=Belief(64, 0.7, 0.6, 0.8, 256, True)))
    judge.check_kept(kept, Scored(believed=Belief(64, 0.71, 0.61, 0.81, 512, True)))  # more is known of the same one


def test_a_trained_scorer_tells_how_far_it_can_be_believed_and_gives_no_verdict_where_it_cannot_judge():
    told = {"0": Belief(1024, 0.7651, 0.7256, 0.8, 1256, True), "1": Belief(64, 0.55, 0.549, 0.56, 300, False)}

    class Scored:
        def identity(self, source, run):
            return "00"

        def belief(self, source, run):
            return told[run]

        def scores(self, source, asked):
            return [(1.0, 0.5) if pair.left == "0" else None for pair in asked]

    judge = ScorerJudge(Gold(), "mine")
    (found,) = judge.judge([dataclasses.replace(pair, left=run) for pair in pairs(2) for run in told], Scored())
    assert [(one.outcome, one.left_score) for one in found] == [("left", 1.0), ("none", None)] * 2
    assert [judge.answered(one) for one in found] == [True, False] * 2
    assert beliefs(found) == {"mine": {"0": dataclasses.replace(told["0"], mean=0.765, low=0.726), "1": told["1"]}}
    assert found[0].raw == ("scorer 00; learned from 1,024 comparisons, agrees with 0.765 [0.726, 0.800] of the "
                            "comparisons to 1,256 held-out prompts")
    assert found[1].raw.endswith("; it cannot judge")
    assert belief("scorer 00") is None and belief(None) is None and belief("A, since B agrees with 0.7 [0.6") is None


def test_a_local_judge_that_cannot_be_read_is_told_by_its_own_keys(monkeypatch):
    def refused(config):
        raise ConfigError("model.name: found x; expected one with model.safetensors; fix: model.name=…")

    monkeypatch.setattr("algorithms.common.evaluation.verdicts.local.model_digest", refused)
    with pytest.raises(ConfigError, match="^judge.model.name: .* with model.safetensors; fix: judge.model.name=…$"):
        LocalJudge(ModelConfig("some/model", precision="bf16", lora=None)).name


def test_language_models_that_may_differ_have_names_that_do(tmp_path):
    names = []
    for number in range(2):
        folder = tmp_path / str(number) / "m"
        shutil.copytree(LAB, folder)
        names.append(LocalJudge(ModelConfig(str(folder), precision="bf16", lora=None)).name)
        (folder / "model.safetensors").write_bytes(b"other weights")
        names.append(LocalJudge(ModelConfig(str(folder), precision="bf16", lora=None)).name)
    assert names[0] == names[2] != names[1] == names[3] and all(re.fullmatch("m-[0-9a-f]{6}@v1", one) for one in names)
    told = [EndpointJudge(*given).name for given in (("a/m",), ("a/m",), ("b/m",), ("a/m", "http://here:1/v1"))]
    assert told[0] == told[1] and len(set(told)) == 3
