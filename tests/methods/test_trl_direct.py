"""From the same start, on the same data in the same order, our first losses are TRL's: SimPO, ORPO, CPO, SLiC-HF, KTO.

Losses and gradient norms of twenty steps in fp32 agree to a relative 3e-5. TRL's likelihood terms are means over a
micro-batch's tokens and ours means of responses' means, so TRL takes a pair at a time where there is one; its ORPO
learns the prompt too, so its likelihood is made again here from its own logits.
"""

from __future__ import annotations

import pytest
import torch

from algorithms.common.data.records import Record
from algorithms.common.models.model import Lora
from algorithms.cpo import CPO
from algorithms.kto import KTO
from algorithms.orpo import ORPO
from algorithms.simpo import SimPO
from algorithms.slic import SLiC
from training_setup import lines, make_context
from trl_setup import (  # noqa: F401
    BATCH,
    SEED,
    arguments,
    compare,
    data,
    fitted,
    ordered,
    our_models,
    pairs_of,
    recipe,
    their_model,
    train_theirs,
)

pytestmark = pytest.mark.slow
LORA = Lora(r=8, alpha=16)


def trained(method, models, examples, folder):
    """Our twenty steps; the folder of the start, and that of what was trained."""
    context = make_context(models, folder / "ours", examples, recipe("linear", 0.0, 5e-4), SEED, micro_batch_size=BATCH)
    return fitted(method, context), lines(context.target)


def of_the_response(kind):
    """TRL's ORPO trainer, with a likelihood of the response alone."""

    class OfTheResponse(kind):
        def concatenated_forward(self, model, batch):
            chosen, rejected, logits, others, _, *more = super().concatenated_forward(model, batch)
            labels = batch["chosen_labels"][:, 1:]
            nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2)[..., :labels.shape[1]], labels)
            return (chosen, rejected, logits, others, nll, *more)

    return OfTheResponse


@pytest.mark.parametrize("method, options, accumulation", [
    (SimPO(beta=2.0, gamma=1.0), {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0}, 1),
    (CPO(beta=0.1, sft_coef=0.7), {"loss_type": "sigmoid", "cpo_alpha": 0.7, "beta": 0.1}, 8),
    (SLiC(margin=1.0, sft_coef=0.7), {"loss_type": "hinge", "cpo_alpha": 0.7, "beta": 1.0}, 8),
    (ORPO(odds_coef=0.3), {"beta": 0.3}, 8)], ids=["simpo", "cpo", "slic", "orpo"])
def test_pairs(data, tmp_path, method, options, accumulation):  # noqa: F811
    from datasets import Dataset
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    kind, config = (of_the_response(ORPOTrainer), ORPOConfig) if isinstance(method, ORPO) else (CPOTrainer, CPOConfig)
    models = our_models(LORA)
    pairs = pairs_of(data.preferences)
    examples = [models.tokenize(Record(x, [better, worse], [1.0, 0.0], {})) for x, better, worse in pairs]
    start, ours = trained(method, models, examples, tmp_path)
    order = ordered(examples, len(examples))
    rows = Dataset.from_list([dict(zip(("prompt", "chosen", "rejected"), pairs[i])) for i in order])
    losses, norms, trainer = train_theirs(
        kind, accumulation, model=their_model(LORA, start), train_dataset=rows,
        processing_class=models.template.tokenizer,
        args=arguments(config, tmp_path / "theirs", recipe("linear", 0.0, 5e-4), accumulation, **options))
    for i, row in zip(order, trainer.train_dataset):  # both train on the same tokens
        assert examples[i].prompt + examples[i].responses[0] == row["chosen_input_ids"]
        assert [id for id in row["rejected_labels"] if id != -100] == examples[i].responses[1]
    compare(type(method).__name__, ours, losses, norms)


def test_kto(data, tmp_path):  # noqa: F811
    """Single ratings, every other one good."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    models = our_models(LORA)
    records = [Record(record.prompt, record.responses, [float(index % 2)], {})
               for index, record in enumerate(data.demonstrations)]
    examples = [models.tokenize(record) for record in records]
    method = KTO(beta=0.1, desirable_weight=1.5, undesirable_weight=0.8)
    start, ours = trained(method, models, examples, tmp_path)
    assert any(line["kl/mismatched"] > 0 for line in ours)
    order = ordered(examples, len(examples))
    rows = Dataset.from_list([{"prompt": records[i].prompt, "completion": records[i].responses[0],
                               "label": records[i].scores[0] > 0.5} for i in order])
    losses, norms, trainer = train_theirs(
        KTOTrainer, 1, model=their_model(LORA, start), train_dataset=rows, processing_class=models.template.tokenizer,
        args=arguments(KTOConfig, tmp_path / "theirs", recipe("linear", 0.0, 5e-4), 1, beta=0.1, desirable_weight=1.5,
                       undesirable_weight=0.8))
    for i, row in zip(order, trainer.train_dataset):
        assert (examples[i].prompt, examples[i].responses[0]) == (row["prompt_ids"], row["completion_ids"])
    compare("KTO", ours, losses, norms)
