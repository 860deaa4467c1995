"""A loss, a gradient or a parameter that is no finite number stops a training, and nothing of it is kept."""

import math

import pytest
import torch

from algorithms.common.algorithm import Loss, Term
from algorithms.common.data.tokenized import batch_indices
from algorithms.common.recipe import Recipe
from algorithms.common.support.errors import TrainingError
from algorithms.common.training import checkpoints
from algorithms.common.training.loop import fit
from algorithms.sft import SFT
from training_setup import OneWeight, examples, make_context, two_roles


class Breaks(SFT):
    """SFT whose loss is ``value`` for the record "record-5"."""

    value = math.nan

    def loss(self, models, batch):
        terms, metrics = super().loss(models, batch)
        factor = self.value if "record-5" in batch.records and torch.is_grad_enabled() == self.in_training else 1.0
        return Loss({"policy": terms["policy"]._replace(sum=terms["policy"].sum * factor)}, metrics)

    in_training = True


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops(make_models, tmp_path, value):
    models = two_roles(make_models())
    data = examples(12)
    recipe = Recipe(lr=1e-3, batch_size=2, epochs=1.0)
    context = make_context(models, tmp_path, data, recipe, checkpoint_every=1, micro_batch_size=1)
    algorithm = Breaks()
    algorithm.value = value
    at = next(step for step in range(6) if 5 in batch_indices(12, 2, 12, step, context.seed))
    assert at > 0, "this seed trains some steps first"
    with pytest.raises(TrainingError) as caught:
        fit(algorithm, context)
    message = str(caught.value)
    assert f"step {at + 1}" in message and "records record-5;" in message
    assert f"step-{at:08d}" in message and "lower recipe.lr" in message
    assert not (context.target / "metrics.jsonl").exists()


def test_a_held_out_loss_that_is_not_finite_stops(make_models, tmp_path):
    models = two_roles(make_models())
    data = examples(6)
    algorithm = Breaks()
    algorithm.in_training = False
    context = make_context(models, tmp_path, data, heldout=data, evaluate_every=2, micro_batch_size=1)
    with pytest.raises(TrainingError, match="step 2: found a loss that is not finite.*records record-5;"):
        fit(algorithm, context)


def test_a_gradient_that_is_not_finite_stops(make_models, tmp_path):
    models = make_models()
    models.add_role("policy", trainable=False, seed=0)
    algorithm = OneWeight(models, 1.0)
    algorithm.loss = lambda _, batch: Loss({"policy": Term(torch.sqrt(algorithm.weight - algorithm.weight))}, {})
    with pytest.raises(TrainingError, match="step 1: found a gradient that is not finite.*none yet"):
        fit(algorithm, make_context(models, tmp_path, examples(4)))


def test_parameters_that_are_not_finite_are_not_kept(make_models, tmp_path):
    """A last step that breaks the weights has a finite loss and gradient; neither checkpoint nor stage may hold it."""
    models = make_models()
    models.add_role("policy", trainable=False, seed=0)
    recipe = Recipe(lr=1e37, batch_size=4, steps=1, warmup=0.0, weight_decay=1000.0)
    for every in (1, 50):
        context = make_context(models, tmp_path / str(every), examples(4), recipe, checkpoint_every=every)
        with pytest.raises(TrainingError, match="step 1: found parameters that give no finite numbers"):
            fit(OneWeight(models, gradient=1.0), context)
        assert checkpoints.newest(context.work) is None
