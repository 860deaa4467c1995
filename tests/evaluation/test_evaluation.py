"""The common evaluation: KL against a naive computation, figures against hand numbers, absent rather than zero."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from algorithms.common.algorithm import Algorithm
from algorithms.common.data.records import DataSets, LoadReport, Record, Records
from algorithms.common.data.template import Example
from algorithms.common.evaluation.evaluate import (
    EvalConfig,
    Evaluation,
    divergence,
    evaluate,
    evaluated_prompts,
    heldout_likelihood,
    heldout_pairs,
    sample_frame,
)
from algorithms.common.evaluation.metrics import distinct_2, metrics
from algorithms.common.models.model import Lora, ModelConfig, Models
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.support.errors import ConfigError
from few import few

EXAMPLES = [Example([1, 40, 41], [[50, 51, 2]], [True], None, "a"),
            Example([1, 42], [[60, 61, 62, 63]], [False], None, "b")]


@pytest.fixture
def models(make_models):
    models = make_models()
    models.add_role("reference", trainable=False, seed=1)
    models.add_role("policy", trainable=False, seed=2)
    with torch.no_grad():
        for name, parameter in models.policy.parameters().items():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return models


def naive_logits(models, role, ids):
    with torch.no_grad(), models.roles.use(role):
        return models.roles.module(input_ids=torch.tensor([ids])).logits[0].double()


def test_divergence_equals_a_naive_sum_over_states_and_vocabulary(models):
    logp, ref_logp, k1, kl = divergence(models, models.collate(EXAMPLES), Sampling(), has_reference=True).values()
    for row, example in enumerate(EXAMPLES):
        ids, start = example.prompt + example.responses[0], len(example.prompt)
        p, q = (naive_logits(models, role, ids).log_softmax(-1) for role in ("policy", "reference"))
        states = range(start - 1, len(ids) - 1)
        assert logp[row] == pytest.approx(sum(p[t, ids[t + 1]].item() for t in states), abs=1e-4)
        assert ref_logp[row] == pytest.approx(sum(q[t, ids[t + 1]].item() for t in states), abs=1e-4)
        assert kl[row] == pytest.approx(sum((p[t].exp() * (p[t] - q[t])).sum().item() for t in states), abs=1e-4)
        assert kl[row] > 1e-3 and k1[row] == pytest.approx(logp[row] - ref_logp[row], abs=1e-5)


WARPED = [Sampling(temperature=0.5), Sampling(top_p=0.5), Sampling(top_k=7, temperature=2.0),
          Sampling(min_new_tokens=2), Sampling(temperature=0.7, top_p=0.8, top_k=300, min_new_tokens=1)]


def naive_warp(logits, drawn, ends, settings):
    """Probabilities of one state, by the words of the settings: (V,) → (V,) float64; what was drawn is possible."""
    probabilities = [math.exp(value / settings.temperature) for value in logits.tolist()]
    probabilities = [0.0 if token in ends else value for token, value in enumerate(probabilities)]
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    order = order[:settings.top_k or None]
    total, mass, kept = sum(probabilities[token] for token in order), 0.0, set()
    for token in order:
        if mass >= settings.top_p * total:
            break
        kept.add(token)
        mass += probabilities[token]
    kept |= {drawn} - {None}
    whole = sum(probabilities[token] for token in kept)
    return torch.tensor([value / whole if token in kept else 0.0 for token, value in enumerate(probabilities)]).double()


@pytest.mark.parametrize("settings", WARPED, ids=str)
def test_the_kl_is_of_the_policy_as_it_is_sampled_to_the_reference_at_the_same_temperature(models, settings):
    plain = divergence(models, models.collate(EXAMPLES), Sampling(), has_reference=True)
    found = divergence(models, models.collate(EXAMPLES), settings, has_reference=True)
    for name in ("logprob_policy", "logprob_reference"):
        assert found[name] == plain[name]
    assert found["kl_exact"] != plain["kl_exact"]
    for row, example in enumerate(EXAMPLES):
        ids, start = example.prompt + example.responses[0], len(example.prompt)
        policy, reference = (naive_logits(models, role, ids) for role in ("policy", "reference"))
        k1 = exact = 0.0
        for t in range(start - 1, len(ids) - 1):
            ends = models.template.stop_ids if t - start + 1 < settings.min_new_tokens else ()
            q = naive_warp(policy[t], ids[t + 1], ends, settings)
            log_r = (reference[t] / settings.temperature).log_softmax(-1)
            k1 += (q[ids[t + 1]].log() - log_r[ids[t + 1]]).item()
            exact += sum((q[v] * (q[v].log() - log_r[v])).item() for v in q.nonzero().flatten())
        assert found["kl_k1"][row] == pytest.approx(k1, abs=1e-3)
        assert found["kl_exact"][row] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("settings", few([
    Sampling(6), Sampling(6, 0.5, top_p=0.8, min_new_tokens=3), Sampling(6, temperature=0.5), Sampling(6, top_p=0.9),
    Sampling(6, top_k=20)], [0, 1]), ids=str)
def test_the_sampled_kl_and_the_exact_one_agree(models, settings):
    """Their difference has mean zero whatever warps the policy: each token's log-ratio is a draw of what is summed."""
    models.template.stop_ids = list(range(0, 1525, 8))
    with torch.no_grad():  # a random model is nearly uniform: sharper, it has more to tell apart
        models.roles.module.get_output_embeddings().weight.mul_(6)
    prompt = EXAMPLES[0].prompt
    (drawn,) = sample(models, "policy", [prompt], settings, seed=0, n=600)
    examples = [Example(prompt, [one.ids], [one.finished], None, "a") for one in drawn]
    found = divergence(models, models.collate(examples), settings, has_reference=True)
    k1, exact = np.array(found["kl_k1"]), np.array(found["kl_exact"])
    noise = (k1 - exact).std() / len(k1) ** 0.5
    assert exact.mean() > 5 * noise and abs(k1.mean() - exact.mean()) < 4 * noise


@pytest.fixture(scope="module")
def of_five_tokens():
    """Two roles over a vocabulary of 5, of which 0 ends a response; sharp, so that truncation leaves tokens out."""
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM._from_config(LlamaConfig(vocab_size=5, **shape), attn_implementation="eager").eval()
    base.get_output_embeddings().weight.data.mul_(8)
    words = WordLevel({"<eos>": 0, "a": 1, "b": 2, "c": 3, "d": 4}, unk_token="d")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="<eos>")
    config = ModelConfig("five", precision="fp32", lora=Lora(r=4, alpha=8), attention="eager",
                         gradient_checkpointing=False)
    models = Models(config, mixed_precision="no", base=base, tokenizer=tokenizer)
    assert models.template.stop_ids == [0]
    for seed, role in enumerate(("reference", "policy")):
        models.add_role(role, trainable=False, seed=seed)
        with torch.no_grad():
            for name, parameter in models.role(role).parameters().items():
                drawn = torch.Generator().manual_seed(len(name) + seed)
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=drawn))
    return models


@pytest.mark.parametrize("settings", [Sampling(3), Sampling(3, top_p=0.9), Sampling(3, 0.5, top_p=0.9),
                                      Sampling(3, 0.5, top_k=3), Sampling(3, 2.0, top_p=0.7, min_new_tokens=2)],
                         ids=str)
def test_over_all_responses_the_sampled_kl_is_the_exact_one_without_error(of_five_tokens, settings):
    """Every response of at most 3 tokens, by its probability: both expectations are the KL of whole responses."""
    models, prompt = of_five_tokens, [1, 3, 2]
    responses, probabilities, ratios = [], [], []
    beginnings = [((), 1.0, 0.0)]  # tokens, q and log(q / r) of them, by float64 forwards of one sequence each
    while beginnings:
        tokens, probability, ratio = beginnings.pop()
        if tokens[-1:] == (0,) or len(tokens) == settings.max_new_tokens:
            responses.append(Example(prompt, [list(tokens)], [tokens[-1] == 0], None, "a"))
            probabilities.append(probability)
            ratios.append(ratio)
            continue
        policy, reference = (naive_logits(models, role, prompt + list(tokens))[-1] for role in ("policy", "reference"))
        ends = (0,) if len(tokens) < settings.min_new_tokens else ()
        q, log_r = naive_warp(policy, None, ends, settings), (reference / settings.temperature).log_softmax(-1)
        beginnings += [((*tokens, token), probability * q[token].item(), ratio + (q[token].log() - log_r[token]).item())
                       for token in range(5) if q[token] > 0]
    weights = torch.tensor(probabilities).double()
    assert weights.sum().item() == pytest.approx(1, abs=1e-6) and len(responses) > 4
    kl = (weights * torch.tensor(ratios).double()).sum().item()
    found = divergence(models, models.collate(responses), settings, has_reference=True)
    k1, exact = ((weights * torch.tensor(found[name]).double()).sum().item() for name in ("kl_k1", "kl_exact"))
    assert kl > 0.05 and k1 == pytest.approx(kl, abs=1e-4) and exact == pytest.approx(kl, abs=1e-4)


def test_greedy_decoding_and_picked_responses_have_no_kl(models):
    batch = models.collate(EXAMPLES)
    for settings in (Sampling(temperature=0), None):
        found = divergence(models, batch, settings, has_reference=True)
        assert found["kl_k1"] == found["kl_exact"] == [None, None] and None not in found["logprob_reference"]


def test_without_a_reference_there_is_no_kl(models):
    logp, *others = divergence(models, models.collate(EXAMPLES), Sampling(), has_reference=False).values()
    assert all(value < 0 for value in logp) and others == [[None, None]] * 3


def frame(gold, picked=None, **columns):
    count = len(gold)
    base = {"prompt_id": [f"p{i}" for i in range(count)], "sample": 0, "prompt": "x", "response": "a b a b",
            "gold": pd.array(gold, dtype="Float64"), "proxy": pd.array([None] * count, dtype="Float64"),
            "logprob_policy": -3.0, "logprob_reference": None, "kl_k1": None, "kl_exact": None, "length": 4,
            "finished": True, "picked": True if picked is None else picked}
    return pd.DataFrame({**base, **columns})


def evaluation(samples, **others):
    return Evaluation(**{"samples": samples, "likelihood": pd.DataFrame(), "pairs": pd.DataFrame(), **others})


PLAIN = Algorithm(view="prompts")


def test_figures_by_hand():
    start = evaluation(frame([0.0, 1.0, 2.0, 3.0]).iloc[::-1])  # joined by prompt, not by place
    found = metrics(PLAIN, evaluation(frame([1.0, 1.0, 4.0, 2.0], kl_k1=[1.0, 0.0, 0.5, 0.5], kl_exact=0.25)), start)
    assert found["reward/gold"].mean == 2.0
    assert found["reward/gold_minus_sft"].mean == 0.5  # (1 + 0 + 2 − 1) / 4
    assert found["win_rate/sft"].mean == 0.625  # win, tie, win, loss
    assert found["kl/k1"].mean == 0.5 and found["kl/exact"].mean == 0.25
    assert found["length/mean"].mean == 4 and found["eos_rate"].mean == 1
    assert found["distinct_2"].mean == pytest.approx(2 / 3)  # "a b", "b a", "a b"
    for estimate in found.values():
        assert estimate.low <= estimate.mean <= estimate.high and estimate.n == 4


def test_without_gold_the_proxies_are_compared_prompt_by_prompt():
    start = evaluation(frame([None, None], proxy=pd.array([1.0, 2.0], dtype="Float64")).iloc[::-1])
    found = metrics(PLAIN, evaluation(frame([None, None], proxy=pd.array([2.0, 5.0], dtype="Float64"))), start)
    assert found["reward/proxy_minus_sft"].mean == 2.0 and "reward/gold_minus_sft" not in found
    unscored = evaluation(frame([None, None]))
    scored = evaluation(frame([None] * 2, proxy=pd.array([2.0, 5.0], dtype="Float64")))
    assert "reward/proxy_minus_sft" not in metrics(PLAIN, scored, unscored)


def test_what_cannot_be_measured_is_absent():
    found = metrics(PLAIN, evaluation(frame([None, None])), None)
    assert set(found) == {"length/mean", "eos_rate", "distinct_2"}


def test_only_the_picked_candidates_count():
    samples = frame([0.0, 9.0, 5.0, 1.0], picked=[False, True, True, False], prompt_id=["p0", "p0", "p1", "p1"],
                    candidate=[0, 1, 0, 1])
    assert metrics(PLAIN, evaluation(samples), None)["reward/gold"].mean == 7.0


def test_pairs_and_perplexity_by_hand():
    pairs = pd.DataFrame({"chosen": [1.0, 0.0, 2.0, 1.0], "rejected": [0.0, 1.0, 2.0, 0.0],
                          "chosen_length": [5, 5, 1, 1],
                          "rejected_length": [1, 1, 5, 5], "prompt_id": list("abcd")})
    likelihood = pd.DataFrame({"prompt_id": ["a", "b"], "nll": [math.log(2) * 3, math.log(2) * 5], "tokens": [3, 5]})
    found = metrics(PLAIN, evaluation(pd.DataFrame(), pairs=pairs, likelihood=likelihood), None)
    assert found["accuracy/heldout"].mean == 0.625  # hit, miss, tie, hit
    assert found["accuracy/chosen_longer"].mean == 0.5 and found["accuracy/chosen_shorter"].mean == 0.75
    assert found["perplexity/heldout"].mean == pytest.approx(2.0)
    assert "calibration/error" not in found and "accuracy/gold" not in found


def test_gold_accuracy_and_calibration_of_pairs_by_hand():
    """Where gold ties, nothing is to be got right; two pairs of one prompt are one unit of resampling."""
    pairs = pd.DataFrame({"chosen": [1.0, 0.0, 2.0, 1.0], "rejected": [0.0, 1.0, 2.0, 0.0], "chosen_length": 1,
                          "rejected_length": 1, "prompt_id": list("aabc"), "gold_chosen": [1.0, -1.0, 1.0, 0.0],
                          "gold_rejected": [0.0, 0.0, 0.0, 0.0],
                          "logit": [math.log(3), math.log(3), math.log(3), -math.log(3)]})
    few = metrics(PLAIN, evaluation(pd.DataFrame(), pairs=pairs), None)
    assert "calibration/error" not in few and few["accuracy/heldout"].n == 3, "3 prompts do not tell how it varies"
    pairs = pd.concat([pairs.assign(prompt_id=pairs["prompt_id"] + str(copy)) for copy in range(7)], ignore_index=True)
    found = metrics(PLAIN, evaluation(pd.DataFrame(), pairs=pairs), None)
    # right, right, tie; none
    assert found["accuracy/gold"].mean == pytest.approx(2.5 / 3) and found["accuracy/gold"].n == 14
    # ¾ sure, ¾ right
    calibration = found["calibration/error"]
    assert calibration.mean == pytest.approx(0.0) and calibration.n == 21 and calibration.high > 0.02
    assert found["accuracy/heldout"].n == 21 and "accuracy/chosen_longer" not in found


def test_distinct_2():
    assert distinct_2("one two three") == 1.0
    assert distinct_2("word") is None
    assert distinct_2("a b a b") == pytest.approx(2 / 3)


@pytest.mark.parametrize("text, value", [("我爱我爱", 2 / 3), ("ねこねこ", 2 / 3), ("กขกข", 2 / 3),
                                         ("我爱 ABC 我爱", 3 / 4), ("爱", None), ("日本の猫と日本の犬", 6 / 8)])
def test_distinct_2_holds_for_scripts_without_spaces(text, value):
    """我爱 ABC 我爱: 我爱, 爱ABC, ABC我, 我爱."""
    assert distinct_2(text) == (value if value is None else pytest.approx(value))
    found = metrics(PLAIN, evaluation(frame([None, None], response=text)), None)
    assert ("distinct_2" in found) == (value is not None)


def records(*items):
    return Records.from_list(list(items))


def test_the_end_token_and_the_best_response_count_in_the_likelihood(models):
    record = Record(" a museum", [" was superb", " was dull"], None, {})
    found = heldout_likelihood(models, [record], 4)
    example = models.tokenize(Record(record.prompt, record.responses[:1], None, {}))
    ids, start = example.prompt + example.responses[0], len(example.prompt)
    logp = naive_logits(models, "policy", ids).log_softmax(-1)
    expected = -sum(logp[t, ids[t + 1]].item() for t in range(start - 1, len(ids) - 1))
    assert found["nll"][0] == pytest.approx(expected, abs=1e-4) and found["tokens"][0] == len(example.responses[0])


def test_a_scorer_ranks_heldout_pairs_and_others_do_not(models):
    class Longest(Algorithm):
        def score(self, models, batch):
            return batch.mask.sum(-1).float()

    heldout = records(Record("x", [" one two three", " one"], [0.0, 1.0], {}))
    found = heldout_pairs(Longest(view="pairs"), models, heldout, 4)
    columns = ["chosen", "rejected", "chosen_length", "rejected_length", "prompt_id", "origin"]
    assert list(found) == columns, "it models no probability"
    judged = heldout_pairs(Longest(view="pairs"), models, heldout, 4, lambda shown: [float(len(r.text)) for r in shown])
    assert (judged["gold_chosen"][0], judged["gold_rejected"][0]) == (len(" one"), len(" one two three"))
    assert found["chosen"][0] < found["rejected"][0] and found["chosen"][0] == found["chosen_length"][0]
    assert len(heldout_pairs(PLAIN, models, heldout, 4)) == 0


def test_no_more_pairs_are_scored_than_asked_for(models):
    class Longest(Algorithm):
        def score(self, models, batch):
            return batch.mask.sum(-1).float()

    heldout = records(*(Record(f"x{i}", [" one two three", " one"], [0.0, 1.0], {}) for i in range(5)))
    data = DataSets(records(), records(), records(), records(Record("e", [], None, {})), heldout, records(),
                    LoadReport(read=6))
    small = Sampling(max_new_tokens=2)

    def scored(**options) -> list[str]:
        config = EvalConfig(sampling=small, batch_size=2, **options)
        return evaluate(Longest(view="pairs"), models, data, config, 0, False, None).pairs["prompt_id"].tolist()

    everything = scored()
    assert len(everything) == 5 and scored(pairs=3) == everything[:3] and scored(pairs=9) == everything
    with pytest.raises(ConfigError, match="eval.pairs: found 0; expected at least 1"):
        EvalConfig(pairs=0)


def test_candidates_are_scored_and_the_best_is_picked(models):
    class Two(Algorithm):
        def respond(self, models, prompts, sampling, seed, keys, answers=1):
            from algorithms.common.models.sampling import sample

            return [[row] for row in sample(models, self.role, prompts, sampling, seed, n=3, keys=keys)]

    prompts = records(Record(" a film", [], None, {}), Record(" a book", [], None, {}))
    config = EvalConfig(prompts=2, samples=1, sampling=Sampling(max_new_tokens=5, batch_size=4), batch_size=4)
    scorer = lambda responses: [float(sum(r.ids)) for r in responses]  # noqa: E731
    found = sample_frame(Two(view="prompts"), models, prompts, config, 0, True, scorer)
    assert len(found) == 6 and found["picked"].sum() == 2
    assert found["candidate"].tolist() == [0, 1, 2] * 2 and set(found["sample"]) == {0}
    assert found["kl_exact"].isna().all() and found["logprob_reference"].notna().sum() == 2
    for _, group in found.groupby("prompt_id"):
        assert group.loc[group["picked"], "proxy"].item() == group["proxy"].max()
    again = sample_frame(Two(view="prompts"), models, prompts, config, 0, True, scorer)
    assert found["response"].tolist() == again["response"].tolist()
    other = sample_frame(Two(view="prompts"), models, prompts, config, 1, True, scorer)
    assert found["response"].tolist() != other["response"].tolist()


def test_prompts_of_the_reported_evaluation_and_of_tuning():
    empty = records()
    data = DataSets(empty, empty, empty, records(Record("e", [], None, {})), empty, records(Record("t", [], None, {})),
                    LoadReport(read=2))
    assert evaluated_prompts(data, EvalConfig())[0].prompt == "e"
    assert evaluated_prompts(data, EvalConfig(split="tuning"))[0].prompt == "t"
    data.tuning = empty
    with pytest.raises(ConfigError, match="eval.split: found tuning.*fix: data.tuning=0.1, or eval.split=evaluation"):
        evaluated_prompts(data, EvalConfig(split="tuning"))
    data.evaluation = empty
    with pytest.raises(ConfigError, match="eval.split: found evaluation.*fix: data.heldout=0.1"):
        evaluated_prompts(data, EvalConfig())
    with pytest.raises(ConfigError, match="evaluation or tuning"):
        EvalConfig(split="train")
    assert np.isfinite(EvalConfig().batch_size)
