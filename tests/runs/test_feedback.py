"""AI feedback: a judge's labels, soft and hard, what they cost and what they are refused for."""

import dataclasses
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from algorithms.common.algorithm import Need
from algorithms.common.data.records import FileData, Record, Records, data_view
from algorithms.common.evaluation.verdicts import Judge
from algorithms.common.evaluation.verdicts.asking import SAID, Court, ask
from algorithms.common.evaluation.verdicts.local import LocalJudge, left_shares
from algorithms.common.evaluation.verdicts.scorer import ScorerJudge
from algorithms.common.rewards.sources import Gold, Trained
from algorithms.common.runs.auditing import Auditor
from algorithms.common.runs.feedback import AIFeedback, pair_of
from algorithms.common.runs.settings import build, settings
from algorithms.common.support.errors import ConfigError, UserError
from algorithms.common.support.store import Store
from algorithms.dpo import DPO, IPO, dpo_loss
from algorithms.ppo import PPO
from algorithms.reward_model import RewardModel, pairwise_loss, soft_pairwise_loss
from algorithms.sft import SFT
from command_line import MICRO_DPO, composed, invoke
from stage_setup import MODEL, RECIPE, make_bench, make_data

ORDERS = ("left_first", "right_first")


@dataclass
class Scripted(Judge):
    """Likes length, and a little what is shown first."""

    asked: list = dataclasses.field(default_factory=list)
    silent: tuple[str, ...] = ()    # answers of which it says nothing
    orders: ClassVar[tuple[str, ...]] = ORDERS
    name: ClassVar[str] = "scripted"

    def shares(self, pairs, court):
        for pair in pairs:
            self.asked.append(pair)
            lead = 0.05 * (len(pair.left_response) - len(pair.right_response))
            share = min(max(0.5 + lead, 0.0), 1.0)
            said = pair.left_response not in self.silent
            yield pair, [min(share + 0.1, 1), max(share - 0.1, 0)] if said else [None, 0.5]


def close(found, expected, digits=6):
    assert torch.as_tensor(found).tolist() == pytest.approx(expected, abs=0.6 * 10**-digits)


def test_the_soft_label_and_its_loss_are_the_published_ones():
    """TV-20, with the letters of both orders as the judge reads them."""
    # the order A, B, then B, A: in the second the left answer, A, stands at the second letter
    shares = left_shares(torch.tensor([[[-0.4, -1.3], [-0.9, -0.7]]]))
    assert shares.tolist()[0] == pytest.approx([0.710950, 0.549834], abs=1e-6)
    close(shares.mean(-1), [0.630392])
    close(soft_pairwise_loss(torch.tensor([0.4]), torch.tensor([0.0]), torch.tensor([0.630392])), [0.660859])


def test_a_certain_label_is_a_hard_one_and_an_unsure_one_is_between():
    first, second = torch.tensor([1.2, 0.3, -0.5]), torch.tensor([0.2, 0.8, -1.5])
    one, zero = torch.ones(3), torch.zeros(3)
    close(soft_pairwise_loss(first, second, one), pairwise_loss(first, second).tolist())
    close(soft_pairwise_loss(first, second, zero), pairwise_loss(second, first).tolist())
    half = soft_pairwise_loss(first, second, one / 2)
    close(half, ((pairwise_loss(first, second) + pairwise_loss(second, first)) / 2).tolist())


def test_dpo_with_soft_labels_is_conservative_by_each_label():
    logps, refs = torch.tensor([[-3.0, -5.0], [-4.0, -2.0]]), torch.tensor([[-3.5, -4.0], [-4.5, -3.0]])
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    found = DPO(soft_labels=True, beta=0.5).objective(logps, refs, scores)
    for row, wrong in enumerate((0.1, 0.4)):
        one = slice(row, row + 1)
        expected = dpo_loss(*logps[one].unbind(1), *refs[one].unbind(1), beta=0.5, label_smoothing=wrong)
        close(found[one], expected.tolist())
    hard = DPO(beta=0.5).objective(logps, refs, scores)
    close(hard, dpo_loss(*logps.unbind(1), *refs.unbind(1), beta=0.5).tolist())
    with pytest.raises(ConfigError, match="label_smoothing: found 0.1 with soft_labels"):
        DPO(soft_labels=True, label_smoothing=0.1)


def test_the_reward_models_loss_takes_them_from_the_scores():
    rewards, scores = torch.tensor([[0.4, 0.0], [1.0, -1.0]]), torch.tensor([[0.630392, 0.369608], [1.0, 0.0]])
    batch = SimpleNamespace(scores=scores, present=torch.ones(2, 2, dtype=torch.bool))

    class Given(RewardModel):
        def rewards(self, models, batch):
            return rewards

    told = Given(soft_labels=True).loss(None, batch).terms["reward"].sum
    close(told, 0.660859 + pairwise_loss(torch.tensor(1.0), torch.tensor(-1.0)).item())
    for wrong in ({"view": "ranked"}, {"margin": 1.0}):
        with pytest.raises(ConfigError, match="fix: algorithm.view=pairs algorithm.margin=0"):
            RewardModel(soft_labels=True, **wrong)


@pytest.mark.parametrize("scores", [[2.0, 1.0], [0.9, 0.2], [1.5, -0.5]])
@pytest.mark.parametrize("method", [DPO, RewardModel])
def test_scores_that_are_no_probabilities_are_refused(method, scores):
    records = Records.from_list([Record("Q", ["a", "b"], [0.75, 0.25]), Record("Q", ["a", "c"], scores)])
    told = "key.soft_labels: found a pair with the scores .*; fix: key.soft_labels=false"
    with pytest.raises(ConfigError, match=told):
        method(soft_labels=True).check_records(records, "key")
    method(soft_labels=True).check_records(records.select([0]), "key")
    method().check_records(records, "key")


# Labels of a run's data


def feedback(**settings) -> AIFeedback:
    return AIFeedback(Scripted(), **settings)


def labelled(tmp_path, labels, data=None):
    bench = make_bench(Store(tmp_path / "store"), labels.asked(make_data() if data is None else data))
    bench.relabel(labels.labelled(bench))
    return bench


def test_labels_are_the_mean_of_both_orders(tmp_path):
    data = make_data()
    bench = labelled(tmp_path, labels := feedback(), data)
    found = list(bench.data.preferences)
    assert len(found) == len(data.preferences) == len(labels.judge.asked)
    for before, after in zip(data.preferences, found):
        share = 0.5 + 0.05 * (len(before.responses[0]) - len(before.responses[1]))
        share = (min(min(max(share, 0), 1) + 0.1, 1) + max(min(max(share, 0), 1) - 0.1, 0)) / 2
        assert after.responses == before.responses and after.prompt == before.prompt
        assert after.scores == pytest.approx([share, 1 - share]) and after.judgements == 0
        assert "own" not in after.meta
    assert bench.data.heldout is data.heldout, "held-out comparisons keep people's labels"
    DPO(soft_labels=True).check_records(data_view(bench.data, "pairs")[0], "algorithm")


def test_hard_labels_say_which_is_better():
    assert [feedback(soft=False).scores(p) for p in (0.8, 0.5, 0.1)] == [[1, 0], [0.5, 0.5], [0, 1]]
    assert feedback().scores(0.75) == [0.75, 0.25]


def test_what_is_told_of_the_judge(tmp_path):
    """Three pairs by hand: sure of the longer, wavering, and of no order."""
    texts = [("aaaaaaaaaa", "b"), ("aaa", "bb"), ("bbb", "aaa")]
    data = make_data()
    data.preferences = Records.from_list([Record(f"Q{i}", list(pair), [1.0, 0.0]) for i, pair in enumerate(texts)])
    told = labelled(tmp_path, feedback(), data).data.labelling.told
    assert (told["pairs"], told["questions"], told["unlabelled"], told["tied"]) == (3, 6, 0, 1)
    # shares .95 (1 and .85), .55 (.65 and .45), .5 (.6 and .4)
    assert told["consistent"]["mean"] == pytest.approx(1 / 3) and told["first"]["mean"] == pytest.approx(2.5 / 3)
    # the mean of the last is no preference: half a hit
    assert told["agrees"]["mean"] == pytest.approx(2.5 / 3)


def test_rankings_and_responses_that_nobody_judged_are_compared_too(tmp_path):
    data = make_data()
    data.preferences = Records.from_list([Record("Q", ["a", "bb", "cccc"], [1.0, 2.0, 3.0]),
                                          Record("R", ["one"], [4.0])])
    data.unjudged = Records.from_list([Record("S", ["dd", "e", "dd"])])
    bench = labelled(tmp_path, feedback(), data)
    assert [record.responses for record in bench.data.preferences] == [["a", "bb"], ["a", "cccc"], ["bb", "cccc"],
                                                                       ["dd", "e"], ["e", "dd"]]
    with pytest.raises(ConfigError, match="data: found no two responses to one prompt; .*; fix: "):
        data.preferences, data.unjudged = data.preferences.select([1]), None
        feedback().asked(data)


def test_pairs_without_a_verdict_are_left_out_and_counted(tmp_path):
    data = make_data()
    silent = data.preferences[0].responses[0]
    bench = labelled(tmp_path, AIFeedback(Scripted(silent=(silent,))), data)
    assert len(bench.data.preferences) == 9 and bench.data.labelling.told["unlabelled"] == 1
    everything = tuple(record.responses[0] for record in data.preferences)
    with pytest.raises(UserError, match="labels: found no verdict of scripted on any of 10 pairs"):
        labelled(tmp_path / "other", AIFeedback(Scripted(silent=everything)), data)


def test_labels_are_kept_and_a_kill_loses_one(tmp_path):
    labels = feedback()
    first = labelled(tmp_path, labels)
    again = labelled(tmp_path, labels)
    assert len(labels.judge.asked) == 10
    assert again.data.preferences.fingerprint == first.data.preferences.fingerprint

    class Dying(Scripted):
        def shares(self, pairs, court):
            for number, said in enumerate(super().shares(pairs, court)):
                if number == 4:
                    raise KeyboardInterrupt
                yield said

    bench = make_bench(Store(tmp_path / "store"), labels.asked(make_data()))
    pairs = labels.judge.asked[:10]
    court = Court(bench.store, 0, "no")
    (work := tmp_path / "work").mkdir()
    (target := tmp_path / "target").mkdir()
    with pytest.raises(KeyboardInterrupt):
        ask(Dying(), pairs, court, target, work)
    with open(work / SAID, "a", encoding="utf-8") as file:
        file.write("[7, [0.")      # cut off
    rest = Scripted()
    ask(rest, pairs, court, target, work)
    assert [pair.sample for pair in rest.asked] == list(range(4, 10))
    shares = json.loads((target / "labels.json").read_text(encoding="utf-8"))
    assert [sum(one) / 2 for one in shares] == pytest.approx([record.scores[0] for record in first.data.preferences])


def test_a_judge_that_gave_up_is_asked_for_the_rest(tmp_path):
    class Lazy(Scripted):
        def shares(self, pairs, court):
            yield from super().shares(pairs[:3], court)

    with pytest.raises(UserError, match="labels: found no answer of scripted on 7 of 10 pairs; .* the same command"):
        labelled(tmp_path, AIFeedback(Lazy()))
    labels = feedback()
    labelled(tmp_path, labels)
    assert len(labels.judge.asked) == 7


def on_reward(soft):
    return Trained(RewardModel(soft_labels=soft, normalize_on=None), RECIPE)


@pytest.mark.parametrize("method, fix", [
    (DPO(), "algorithm.soft_labels=true"), (IPO(), "labels.soft=false"), (RewardModel(), "algorithm.soft_labels=true")])
def test_a_method_that_would_pass_over_how_sure_a_label_is_is_refused_and_the_fix_works(tmp_path, method, fix):
    bench = make_bench(Store(tmp_path), feedback().asked(make_data()))
    with pytest.raises(ConfigError, match=f"labels.soft: found .*; fix: {fix}$"):
        bench.checked(method)
    soft = fix.startswith("labels")
    mended = method if soft else dataclasses.replace(method, soft_labels=True)
    make_bench(Store(tmp_path), feedback(soft=not soft).asked(make_data())).checked(mended)
    make_bench(Store(tmp_path), make_data()).checked(method)


def test_a_reward_model_beneath_is_looked_at_too_and_the_auditor_learns_from_people(tmp_path):
    data = dataclasses.replace(feedback().asked(make_data()), audit=make_data(1).preferences)
    bench = make_bench(Store(tmp_path), data, reward=on_reward(False))
    with pytest.raises(ConfigError, match="fix: reward.algorithm.soft_labels=true"):
        bench.checked(PPO(critic="policy"))
    make_bench(Store(tmp_path), data, reward=on_reward(True)).checked(PPO(critic="policy"))
    Auditor(bench, on_reward(False)).check()
    assert Auditor(bench, on_reward(False)).apart.data.labelling is None


def test_what_labels_cost_is_charged_to_whoever_learns_from_them(tmp_path):
    bench = labelled(tmp_path, feedback())
    cost = {**bench.data.labelling.cost, "seconds": 1000.0}
    bench.relabel(dataclasses.replace(bench.data, labelling=dataclasses.replace(bench.data.labelling, cost=cost)))
    recipe = dataclasses.replace(RECIPE, steps=1)
    sft = SFT(view="demonstrations")
    dpo = DPO(soft_labels=True, needs={"reference": Need(sft, recipe)})
    paid = bench.cost(dpo, recipe)
    assert 1000 < paid["seconds"] < 2000 and paid["labels"] == 0, "once, and no label of people's"
    assert paid["stages"]["labels"]["seconds"] == 1000
    assert bench.cost(sft, recipe)["seconds"] < 1000
    bench.data.report.fallbacks["demonstrations"] = "preferred responses"
    assert bench.cost(sft, recipe)["seconds"] > 1000


def test_demonstrations_that_were_peoples_choices_become_the_judges(tmp_path):
    data = make_data()
    data.report.fallbacks["demonstrations"] = "preferred responses"
    bench = labelled(tmp_path, feedback(), data)
    longer = [max(record.responses, key=len) for record in data.preferences
              if len(set(map(len, record.responses))) > 1]
    assert [record.responses[0] for record in bench.data.demonstrations] == longer


# Judges


def test_a_local_judge_gives_the_shares_that_its_verdicts_round(tmp_path):
    judge = LocalJudge(dataclasses.replace(MODEL, lora=None, max_length=400, max_prompt_length=1), batch_size=3)
    labels = AIFeedback(judge)
    bench = make_bench(Store(tmp_path), labels.asked(make_data()))
    records = list(labels.labelled(bench).preferences)
    pairs = [pair_of(index, record) for index, record in enumerate(bench.data.preferences)]
    court = Court(bench.store, 0, "no")
    told = [one.raw for found in judge.judge(pairs, court) for one in found]
    assert len(told) == 20 and len(records) == 10
    for record, raw in zip(records, told[::2]):
        assert f"both orders {record.scores[0]:.4f}" in raw
    short = AIFeedback(dataclasses.replace(judge, model=dataclasses.replace(judge.model, max_length=100,
                                                                            max_prompt_length=1)))
    with pytest.raises(UserError, match="a larger labels.judge.model.max_length"):     # nothing kept stands for it
        short.labelled(bench)
    with_long = dataclasses.replace(pairs[0], prompt="very " * 500)
    assert [shares for _, shares in judge.shares([with_long], court)] == [[None, None]]


def test_verdicts_in_words_are_shares_of_one_half_or_none(tmp_path):
    @dataclass
    class Spoken(Judge):
        orders: ClassVar[tuple[str, ...]] = ORDERS
        name: ClassVar[str] = "spoken"

        def judge(self, pairs, court):
            outcomes = {0: ("left", "left"), 1: ("left", "right"), 2: ("tie", "right"), 3: ("none", "left")}
            yield [self.verdict(pair, outcome, order) for pair in pairs[:4]
                   for order, outcome in zip(ORDERS, outcomes[pair.sample])]

    bench = make_bench(Store(tmp_path), (labels := AIFeedback(Spoken())).asked(make_data()))
    pairs = [pair_of(index, record) for index, record in enumerate(bench.data.preferences)]
    found = list(labels.judge.shares(pairs, None))
    assert [shares for _, shares in found] == [[1, 1], [1, 0], [0.5, 0], [None, 1]]
    assert [pair for pair, _ in found] == pairs[:4]


def test_a_scorer_is_no_judge_of_pairs():
    with pytest.raises(ConfigError, match="labels.judge: found ScorerJudge, .* fix: judge@labels.judge=local"):
        AIFeedback(ScorerJudge(Gold()))


def test_the_config_has_the_classes_defaults_and_a_choice_of_judges():
    local = build(composed("labels=judge", "labels.judge.model.name=some/model"), ("labels",))["labels"]
    assert isinstance(local.judge, LocalJudge) and local.soft is AIFeedback(local.judge).soft
    asked = composed("labels=judge", "judge@labels.judge=openai", "labels.judge.model=m")
    assert build(asked, ("labels",))["labels"].judge.model == "m"
    assert settings(composed()).labels is None and settings(asked).labels.judge.model == "m"


def test_a_run_on_a_judges_labels(tmp_path):
    """One command: labels, the reference, the method; what is told and what it cost. A plan asks nothing."""
    judge = ["labels=judge", f"labels.judge.model.name={MODEL.name}", "labels.judge.model.precision=fp32",
             "labels.judge.model.max_length=400", "algorithm.soft_labels=true", f"stages.folder={tmp_path}/stages"]
    planned = invoke("task=plan", *MICRO_DPO, *judge, f"hydra.run.dir={tmp_path}/plan")
    assert planned.status == 0 and not list((tmp_path / "stages").glob("labels-*")), planned.err
    assert "pairs of answers, in both orders; what that takes is not in this plan" in planned.out
    ended = invoke(*MICRO_DPO, *judge, f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    told = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert told["labels"]["questions"] == 2 * told["labels"]["pairs"] > 0 and told["labels"]["agrees"] is not None
    assert told["cost"]["labels"] == 0 and told["cost"]["seconds"] > told["cost"]["stages"]["labels"]["seconds"] > 0
    refused = invoke(*MICRO_DPO, *judge, "algorithm.soft_labels=false", f"hydra.run.dir={tmp_path}/other")
    assert refused.status == 2 and "fix: algorithm.soft_labels=true" in refused.err


def test_candidates_without_a_judgement_are_read_for_it(tmp_path):
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Q{i}", "responses": ["a", "bb"]}) + "\n" for i in range(10)),
                    encoding="utf-8")
    data = FileData(path=str(path)).load(0)
    assert len(data.preferences) == 0 and len(feedback().asked(data).preferences) == len(data.unjudged) == 9
