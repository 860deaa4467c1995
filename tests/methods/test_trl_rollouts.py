"""Given the same responses with the same scores, our losses of policy gradients are TRL's.

We sample, and TRL's trainers are handed what was drawn: advantages, KL, clipped losses, gradients and updates are each
one's own. Ten batches are stepped on twice, so that every second ratio is not 1. Losses of the first twenty steps in
fp32 agree within 3e-5, where advantages are about 1 (they start at 0, so it is no relative bound), gradient norms to a
relative 3e-5.
"""

from __future__ import annotations

import pytest

from algorithms.common.data.records import Record
from algorithms.common.models.model import Lora
from algorithms.common.recipe import Recipe
from algorithms.dr_grpo import DrGRPO
from algorithms.grpo import GRPO
from algorithms.rloo import RLOO
from training_setup import lines, make_context
from trl_setup import STEPS, TOLERANCE, data, fitted, our_models, their_model, train_theirs  # noqa: F401

pytestmark = pytest.mark.slow
PROMPTS, K, LENGTH = 4, 4, 12
OPTIONS = {"samples": K, "kl_coef": 0.1, "score_clip": None, "missing_eos_penalty": 0.0, "max_new_tokens": LENGTH,
           "clip": 0.05}


def score(ids: list[int]) -> float:
    return sum(token % 7 for token in ids) / len(ids) - 3.0


def recording(kind):
    """The method, with what it drew and the loss of every step kept."""

    class Recording(kind):
        def start(self):
            super().start()
            self.drawn, self.losses = [], []

        def sample(self, context, examples):
            rolled = super().sample(context, examples)
            self.drawn.append(rolled)
            return rolled

        def loss(self, models, minibatch):
            found = super().loss(models, minibatch)
            self.losses.append(sum(term.coefficient * term.sum.item() for term in found.terms.values()) / (PROMPTS * K))
            return found

    return Recording


def given(kind, drawn):
    """A trainer that is handed responses where it would sample."""

    class Given(kind):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *more):
            rolled = drawn.pop(0)
            assert prompt_ids == [one.prompt for one in rolled for _ in one.responses]
            responses = [ids for one in rolled for ids in one.responses]
            return (responses, None) if more else responses  # GRPO's wants log-probabilities of an engine too

    return Given


@pytest.mark.parametrize("ours, options, theirs, their_options", [
    (RLOO, {}, "RLOO", {}),
    (GRPO, {}, "GRPO", {"loss_type": "grpo", "use_bias_correction_kl": False}),
    (GRPO, {"unbiased_kl": True}, "GRPO", {"loss_type": "grpo"}),
    # TRL's Dr. GRPO has its KL in the loss, ours in the return
    (DrGRPO, {"kl_coef": 0.0}, "GRPO", {"loss_type": "dr_grpo", "scale_rewards": "none"})],
    ids=["rloo", "grpo", "grpo-unbiased-kl", "dr_grpo"])
def test_policy_gradients(data, tmp_path, ours, options, theirs, their_options):  # noqa: F811
    import trl
    from datasets import Dataset

    lora = Lora(r=8, alpha=16)
    models = our_models(lora)
    records = [Record(record.prompt, [], None, {}) for record in data.demonstrations][:PROMPTS * STEPS // 2]
    examples = [models.tokenize(record) for record in records]
    settings = Recipe(lr=5e-4, batch_size=PROMPTS, steps=STEPS // 2, inner_epochs=2, schedule="constant", warmup=0.0,
                      betas=[0.9, 0.95], max_grad_norm=1.0)
    context = make_context(models, tmp_path / "ours", examples, settings, micro_batch_size=PROMPTS)
    context.records = records
    context.reward = lambda responses: [score(response.ids) for response in responses]
    method = recording(ours)(**{**OPTIONS, **options})
    start = fitted(method, context)
    assert len(method.losses) == STEPS

    kind, config = getattr(trl, f"{theirs}Trainer"), getattr(trl, f"{theirs}Config")
    prompts = Dataset.from_list([{"prompt": context.prompt(one.record)} for rolled in method.drawn for one in rolled])
    arguments = config(output_dir=str(tmp_path / "theirs"), per_device_train_batch_size=PROMPTS * K, num_generations=K,
                       num_iterations=2, steps_per_generation=1, gradient_accumulation_steps=1, max_steps=STEPS,
                       beta=method.kl_coef, epsilon=method.clip, max_completion_length=LENGTH, temperature=1.0,
                       learning_rate=settings.lr, lr_scheduler_type="constant", warmup_steps=0, optim="adamw_torch",
                       adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0,
                       logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
                       gradient_checkpointing=False, shuffle_dataset=False, disable_dropout=True, disable_tqdm=True,
                       seed=0, **their_options)
    losses, norms, _ = train_theirs(
        given(kind, list(method.drawn)), 1, model=their_model(lora, start), train_dataset=prompts,
        processing_class=models.template.tokenizer, args=arguments,
        reward_funcs=lambda completion_ids, **_: [score(ids) for ids in completion_ids])
    apart = max(abs(one - other) for one, other in zip(method.losses, losses, strict=True))
    ours_norms = [line["grad_norm"] for line in lines(context.target)]  # of a batch: the mean of its two steps
    theirs_norms = [(one + other) / 2 for one, other in zip(norms[::2], norms[1::2], strict=True)]
    norm = max(abs(one - other) / other for one, other in zip(ours_norms, theirs_norms, strict=True))
    print(f"\n{theirs}: largest difference of losses {apart:.1e}, relative of gradient norms {norm:.1e}; "
          f"losses {losses[0]:.6f}, {losses[1]:.6f} … {losses[-1]:.6f}")
    assert max(map(abs, losses)) > 100 * TOLERANCE, "it moves"
    assert apart < TOLERANCE and norm < TOLERANCE
