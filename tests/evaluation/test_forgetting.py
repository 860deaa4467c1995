"""What training took from the base: held-out demonstrations and texts that nothing trains on, against the start."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from test_evaluation import PLAIN, evaluation

from algorithms.common.data.texts import first_texts
from algorithms.common.evaluation.evaluate import EvalConfig, evaluated_texts, text_likelihood
from algorithms.common.evaluation.metrics import BASE, estimate, figures
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from stage_setup import EVAL, RECIPE, make_bench, make_data, on_sft
from training_setup import two_roles


def likely(nll, tokens, prompts="abc"):
    return pd.DataFrame({"prompt_id": list(prompts)[:len(nll)], "nll": nll, "tokens": tokens})


def test_the_difference_to_the_start_is_the_logarithm_of_the_ratio_of_perplexities():
    """a, b, c of 2, 3, 1 tokens: Σ nll 6 ln 2 now, 3 ln 2 before, so ½ ln 2 a token: √2 times the perplexity."""
    after = evaluation(pd.DataFrame(), likelihood=likely(np.log([4.0, 8.0, 2.0]), [2, 3, 1]),
                       texts=likely(np.log([4.0, 2.0]), [2, 2]))
    before = evaluation(pd.DataFrame(), likelihood=likely(np.log([2.0, 4.0, 1.0]), [2, 3, 1]).iloc[::-1],
                        texts=likely(np.log([2.0, 4.0]), [2, 2]))
    found = figures(PLAIN, after, before)
    less = found["perplexity/heldout_minus_sft"]
    assert less.rows.set_index("prompt_id").T.to_dict("list") == {
        "a": [pytest.approx(np.log(2)), 2], "b": [pytest.approx(np.log(2)), 3], "c": [pytest.approx(np.log(2)), 1]}
    told = estimate(less)
    assert told.mean == pytest.approx(np.log(2) / 2) and told.low < told.mean < told.high
    own, start = (estimate(figures(PLAIN, one, None)["perplexity/heldout"]).mean for one in (after, before))
    assert np.exp(told.mean) == pytest.approx(own / start)
    assert estimate(found["perplexity/texts_minus_sft"]).mean == pytest.approx(0, abs=1e-12)
    assert (found["perplexity/texts"].kind, less.kind, less.unit) == ("perplexity", "mean", "demonstrations")
    assert "perplexity/texts_minus_base" in figures(PLAIN, after, before, BASE)
    assert not [name for name in figures(PLAIN, after, None) if "minus" in name]


def test_the_likelihood_of_texts_is_that_of_a_naive_sum(make_models):
    """In pieces of max_length tokens, each scored after its own first token."""
    models = two_roles(make_models(max_length=8, max_prompt_length=4))
    texts = ["The food was good and the staff was great and kind to all of us there", "Bad room"]
    found = text_likelihood(models, texts, 2)
    for text, part in zip(texts, (found[:-1], found[-1:])):
        ids, nll, count = models.template.prompt_ids(text), 0.0, 0
        for start in range(0, len(ids), 8):
            piece = torch.tensor([ids[start:start + 8]])
            with torch.no_grad(), models.roles.use("policy"):
                logprobs = models.roles.module(piece).logits.log_softmax(-1)
            for place in range(1, piece.shape[1]):
                nll, count = nll - logprobs[0, place - 1, piece[0, place]].item(), count + 1
        assert part["nll"].sum() == pytest.approx(nll, rel=1e-4) and part["tokens"].sum() == count
    assert len(found) > 2 and found["prompt_id"].nunique() == 2


def test_texts_are_read_from_a_file_between_blank_lines_and_the_first_only(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n\nOne\ntwo lines\n \t\nthree\n\n\nfour", encoding="utf-8")
    assert first_texts(str(path), 9) == ["One\ntwo lines", "three", "four"] and len(first_texts(str(path), 2)) == 2
    config, data = EvalConfig(texts=str(path), prompts=2), dataclasses.replace(make_data(), texts=["own"] * 3)
    assert evaluated_texts(data, config) == ["One\ntwo lines", "three"], "what is named counts over the data's own"
    assert evaluated_texts(data, EvalConfig(prompts=2)) == ["own", "own"] and not evaluated_texts(make_data(), EVAL)


@pytest.mark.parametrize("content, told", [(None, "which cannot be read"), (b"\n \n", "no text in"),
                                           (b"caf\xe9", "which is not in UTF-8")])
def test_a_file_without_texts_is_refused_before_anything_is_trained(tmp_path, content, told):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"eval.texts: found .*{told}.*; expected a file of plain text .*; fix: "):
        make_bench(Store(tmp_path / "s"), eval=dataclasses.replace(EVAL, texts=str(path))).check(on_sft())


def test_an_evaluation_is_known_by_the_texts_not_by_their_file(tmp_path):
    store, files = Store(tmp_path / "s"), [tmp_path / name for name in "abc"]
    for path, text in zip(files, ("the food was good", "the food was good", "the room was bad")):
        path.write_text(text)
    benches = [make_bench(store, eval=dataclasses.replace(EVAL, texts=str(path))) for path in files]
    kept = [bench._evaluation(on_sft(), RECIPE, "dpo") for bench in benches]
    assert kept[0] == kept[1] != kept[2]
    found = benches[0].evaluate(on_sft(), RECIPE)
    assert len(found.texts) == 1 and len(make_bench(store).evaluate(on_sft(), RECIPE).texts) == 0
