"""Overlap with the data's answer: what it counts, by hand and against the libraries' own; what is refused."""

import dataclasses
import importlib.util

import pandas as pd
import pytest
from test_evaluation import PLAIN, evaluation, frame

from algorithms.common.evaluation import overlap
from algorithms.common.evaluation.evaluate import data_answers
from algorithms.common.evaluation.metrics import figures
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from command_line import MICRO, invoke
from stage_setup import EVAL, RECIPE, make_bench, make_data, on_sft

needs_extra = pytest.mark.skipif(not all(map(importlib.util.find_spec, overlap.PACKAGES.values())),
                                 reason="the extra overlap is not installed")


@needs_extra
def test_rouge_l_by_hand():
    """Words in common, in order: the cat on, 3 of 4 and of 5, so F = 6 / 9. Of characters: 我 喜 欢 of 3 and 4."""
    scores = overlap.Overlap()
    assert scores.rouge_l("The cat lay on.", "the cat sat on it") == pytest.approx(6 / 9)
    assert scores.rouge_l("我喜欢。", "我很喜欢") == pytest.approx(6 / 7)
    assert scores.rouge_l("", "the cat") == 0 and scores.rouge_l("Cat, the!", "cat the") == 1


@needs_extra
def test_bleu_by_hand():
    """a b c d of a b c e: precisions 3/4, 2/3, 1/2 and of the single run of four none, smoothed to 1/2; no brevity
    penalty. Two words have no runs of three: of a b, all there is agrees; it is half as long: exp(1 − 4/2)."""
    scores = overlap.Overlap()
    assert scores.bleu("a b c d", "a b c e") == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4))
    assert scores.bleu("a b", "a b c d") == pytest.approx(2.718281828 ** -1)
    assert scores.bleu("", "a b") == 0 and scores.bleu("a b c d", "a b c d") == pytest.approx(1)


@needs_extra
@pytest.mark.parametrize("one, other", [("The cat_sat, on 3 mats: it's.", "A cat sat on four mats; it is"),
                                        ("no", "yes, no")])
def test_texts_in_ascii_score_as_the_libraries_have_it(one, other):
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import sentence_bleu

    scores = overlap.Overlap()
    assert scores.rouge_l(one, other) == RougeScorer(["rougeL"]).score(other, one)["rougeL"].fmeasure
    assert scores.bleu(one, other) == pytest.approx(sentence_bleu(one, [other]).score / 100)


@needs_extra
def test_chinese_scores_as_by_sacrebleus_own_tokenizer_and_japanese_and_thai_by_characters_too():
    from sacrebleu import sentence_bleu

    scores, one, other = overlap.Overlap(), "我喜欢这个餐厅。", "我很喜欢这家餐厅，味道好。"
    assert scores.bleu(one, other) == pytest.approx(sentence_bleu(one, [other], tokenize="zh").score / 100)
    for first, second in (("とてもよい店です", "よい店でした"), ("อร่อยมาก", "อร่อยจัง")):
        assert 0 < scores.bleu(first, second) < 1 and 0 < scores.rouge_l(first, second) < 1
    assert overlap.Words().tokenize("Привет, Мир! हिन्दी ขี้") == ["привет", "мир", "हिन्दी", "ขี้"]


@needs_extra
def test_answers_become_figures_beside_the_start_s_on_the_prompts_that_the_data_answers():
    after = evaluation(frame([0.0] * 4, prompt_id=["p", "p", "q", "r"], sample=[0, 1, 0, 0],
                             response=["a b", "c d", "x", "x"], picked=[True, True, True, True]))
    start = evaluation(frame([0.0] * 3, prompt_id=["p", "q", "r"], response=["a", "x", "x"]))
    data = {"p": "a b", "q": "?!"}
    after, start = (overlap.with_overlap(one, data) for one in (after, start))
    found = figures(PLAIN, after, start)
    rows = found["overlap/rouge_l"].rows
    assert rows.values.tolist() == [["p", 1.0, 2.0]], "one of two answers is the data's; q has no word, r no answer"
    assert found["overlap/rouge_l_minus_sft"].rows.values.tolist() == [["p", pytest.approx(1 / 2 - 2 / 3), 1.0]]
    assert {"overlap/bleu", "overlap/bleu_minus_sft"} <= set(found)
    measured = pd.DataFrame({"prompt_id": ["p"], "figure": ["refusal"], "value": [1.0]})
    both = overlap.with_overlap(dataclasses.replace(start, measured=measured), data)
    assert {"refusal", "overlap/bleu"} <= set(both.measured["figure"]), "what the data measured stays"


def test_the_missing_extra_and_data_without_answers_are_refused(monkeypatch):
    monkeypatch.setattr(overlap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"eval.overlap: found no rouge-score and no sacrebleu; expected the extra "
                                          r"overlap; fix: pip install -e '\.\[overlap\]' -c constraints.txt"):
        overlap.check_installed()
    with pytest.raises(ConfigError, match="found no answer of the data to any of the 8 evaluated prompts; .*; fix: "
                                          "eval.overlap=false"):
        overlap.check_answers({"p": "…"}, 8)
    overlap.check_answers({"p": "…", "q": "yes"}, 8)


def test_a_missing_extra_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(overlap.PACKAGES, "rouge-score", "no_such_module")
    ended = invoke("algorithm=sft", *MICRO, "eval.overlap=true", f"stages.folder={tmp_path}/stages",
                   f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 2 and ended.err.startswith("eval.overlap: found no rouge-score"), ended.err
    assert not list((tmp_path / "stages").rglob("*.safetensors"))


def test_answers_are_not_made_again_for_it(tmp_path):
    """It is read off kept answers."""
    store = Store(tmp_path)
    kept = [make_bench(store, eval=dataclasses.replace(EVAL, overlap=on))._evaluation(on_sft(), RECIPE, "dpo")
            for on in (False, True)]
    assert kept[0] == kept[1]
    data = make_data()
    assert set(data_answers(data, EVAL)) == {record.key for record in data.evaluation}


@needs_extra
def test_a_run_has_it_in_its_files(tmp_path):
    ended = invoke("algorithm=sft", *MICRO, "eval.overlap=true", "objective=overlap/bleu",
                   f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    written = pd.read_parquet(tmp_path / "run/figures.parquet").set_index("figure")
    samples, references = (pd.read_parquet(tmp_path / f"run/{name}.parquet") for name in ("samples", "references"))
    data = references[references["side"] == "data"].set_index("prompt_id")["response"]
    scores = overlap.Overlap()
    for figure, score in (("overlap/rouge_l", scores.rouge_l), ("overlap/bleu", scores.bleu)):
        expected = sum(score(row.response, data[row.prompt_id]) for row in samples.itertuples())
        assert written.loc[figure, "numerator"].sum() == pytest.approx(expected)
    assert "overlap/rouge_l_minus_base" in written.index and "overlap/bleu" in ended.out
