"""Model families, tiny and random: shared rows are exact against plain rows, or refused by name, and plain rows work.

What differs from family to family: which attention it has, how it honours position ids (OPT counts positions from the
mask when it gets none), what stands behind its output layer (Cohere and Granite scale, Gemma 2 caps), Conv1D for Linear
(GPT-2), windows.
"""

import pytest
import torch
import transformers

from algorithms.common.data.batches import collate
from algorithms.common.models import precision
from algorithms.common.models.model import Lora, ModelConfig, Models, load_base, shared_rows_refusal
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.support.errors import ConfigError
from family_setup import FAMILIES, LLAMA, OPT, VOCABULARY, config_of
from few import few
from row_setup import assert_same, examples, randomise, values_and_gradients

REFUSED = {"mistral": "sliding-window attention (8 tokens)", "gemma3": "sliding-window attention (8 tokens)",
           "gpt-neo": "local attention", "falcon, alibi": "ALiBi", "bloom": "ALiBi"}
CASES = [pytest.param(name, attention, id=f"{name}-{attention}") for name, (_, _, attentions) in FAMILIES.items()
         for attention in attentions]
# each kind of position, attention, output layer and refusal; all families under -m slow
FEW = few(CASES, [index for index, case in enumerate(CASES) if case.id in (
    "llama-sdpa", "gpt2-eager", "opt-sdpa", "gemma2-eager", "cohere-sdpa", "mistral-sdpa", "bloom-eager", "falcon-sdpa",
    "gpt-neo-eager")])


def random_base(name, attention):
    """Also biases, norms and positions are random: zeros and ones would hide what is left out."""
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(config_of(name), attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return base


def settings(name, attention, **options):
    return ModelConfig(name=name,
                       **{"precision": "fp32", "attention": attention, "lora": Lora(r=4, alpha=8), "max_length": 64,
                                     "max_prompt_length": 32, "gradient_checkpointing": False, **options})


def family(tokenizer, name, attention, **options):
    models = Models(settings(name, attention, **options), "no", torch.device("cpu"), random_base(name, attention),
                    tokenizer)
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    return models


@pytest.mark.parametrize("name, attention", FEW)
def test_plain_rows_give_the_models_own_logits(tokenizer, name, attention):
    """``forward`` on single unpadded rows, shifted by hand: head, positions and padding are as the family has them."""
    models = family(tokenizer, name, attention)
    data = examples(2)
    found = models.policy.token_logprobs(collate(data, "plain"))
    for b, one in enumerate(data):
        for k, response in enumerate(one.responses):
            ids = torch.tensor([one.prompt + response])
            with torch.no_grad(), models.roles.use("policy"):
                logp = models.roles.module.eval()(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
            torch.testing.assert_close(found[b, k, :len(response)], logp[len(one.prompt) - 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, attention", FEW)
def test_shared_rows_are_exact_or_refused(tokenizer, name, attention):
    models = family(tokenizer, name, attention)
    data = examples(3)
    plain = values_and_gradients(models, collate(data, "plain"))
    assert len(plain[1]) >= 2 * 2 * 4  # "all-linear" found at least four layers in each of the two blocks
    if name in REFUSED:
        assert models.layout == "plain" and REFUSED[name] in shared_rows_refusal(models.hf_config, 64)
        with pytest.raises(ConfigError, match="model.rows: found shared, but"):
            family(tokenizer, name, attention, rows="shared")
        return
    assert models.layout == "shared"
    models.check_layout(data)
    for layout in (("shared", None), ("shared", 80)):
        assert_same(values_and_gradients(models, collate(data, *layout)), plain)


@pytest.mark.parametrize("name", ["mistral", "gpt-neo", "gemma3"])
def test_a_refusal_has_a_reason(tokenizer, name):
    """Rows that are refused would be wrong: the refusal is neither a habit nor out of date."""
    models = family(tokenizer, name, "eager")
    data = examples(3)
    with torch.no_grad():
        plain, shared = (models.policy.token_logprobs(collate(data, layout)) for layout in ("plain", "shared"))
    assert (plain - shared).abs().max() > 1e-2
    models.layout = "shared"
    with pytest.raises(ConfigError, match="model.rows"):
        models.check_layout(data)


@pytest.mark.parametrize("name, attention",
                         [case for case in FEW if case.values[0] not in REFUSED and case.values[1] == "eager"])
def test_gradient_checkpointing_changes_nothing(tokenizer, name, attention):
    batch = collate(examples(2))
    wanted = values_and_gradients(family(tokenizer, name, attention), batch)
    models = family(tokenizer, name, attention, gradient_checkpointing=True)
    assert_same(values_and_gradients(models, batch), wanted)


@pytest.mark.parametrize("name, attention", FEW)
def test_greedy_equals_generate(tokenizer, name, attention):
    models = family(tokenizer, name, attention)
    prompts = [example.prompt for example in examples(1, 3)]
    for prompt, (one,) in zip(prompts, sample(models, "policy", prompts, Sampling(8, temperature=0), seed=0)):
        with torch.no_grad(), models.roles.use("policy"):
            wanted = models.roles.module.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=8,
                do_sample=False, eos_token_id=models.template.stop_ids, pad_token_id=0)[0, len(prompt):]
        assert one.ids == wanted.tolist()


@pytest.mark.parametrize("name", ["llama", "mistral", "bloom", "gpt2"])
def test_many_samples_and_ended_rows_in_every_kind_of_cache(tokenizer, name):
    """Rows of the cache are repeated after the prefill and taken out when they end."""
    models = family(tokenizer, name, "eager")
    models.template.stop_ids = list(range(0, VOCABULARY, 8))
    prompts = [example.prompt for example in examples(1, 3)]
    together = sample(models, "policy", prompts, Sampling(12), seed=0, n=4, keys=list("abc"))
    alone = sample(models, "policy", prompts, Sampling(12, batch_size=1), seed=0, n=4, keys=list("abc"))
    assert together == alone and len({len(one.ids) for samples in together for one in samples}) > 2


@pytest.mark.parametrize("name", few([name for name in FAMILIES if "falcon" not in name], ["llama", "gpt2", "gemma2"]))
def test_nf4(tokenizer, tmp_path, monkeypatch, name):
    """4-bit through the loader: gradients of LoRA are finite and the same in shared and plain rows."""
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)  # fp32 arithmetic, so that "the same" is sharp
    random_base(name, "eager").save_pretrained(tmp_path)
    config = settings(str(tmp_path), "eager", precision="nf4")
    models = Models(config, "no", torch.device("cpu"), tokenizer=tokenizer)
    layers = [module for module in models.roles.module.modules() if isinstance(module, Linear4bit)]
    assert len(layers) >= 2 * 4 and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    data = examples(2)
    rough, sharp = (one.role("base").token_logprobs(collate(data, "plain")).flatten()
                    for one in (models, family(tokenizer, name, "eager")))
    assert torch.corrcoef(torch.stack([rough, sharp]))[0, 1] > 0.9  # 4 bits of these weights, not of their transpose
    plain = values_and_gradients(models, collate(data, "plain"))
    assert all(gradient.isfinite().all() for gradient in plain[1].values())
    if models.layout == "shared":
        assert_same(values_and_gradients(models, collate(data)), plain, tolerance=5e-5)


@pytest.mark.parametrize("kind, options, name", [
    ("FalconConfig", FAMILIES["falcon"][1], "dense"),
    ("MixtralConfig", {**LLAMA, "num_local_experts": 4}, "experts")])
def test_nf4_that_would_not_be_is_refused(tmp_path, kind, options, name):
    """Transformers leaves these weights in 16 bits and only warns."""
    config = getattr(transformers, kind)(vocab_size=VOCABULARY, **options)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"(?s)model.precision: found nf4, but.*{name}.*fix: model.precision=bf16"):
        load_base(settings(str(tmp_path), "eager", precision="nf4"), torch.device("cpu"))


# ---- behind the output layer

@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite"])
def test_scaled_and_capped_logits_are_not_left_out(tokenizer, name):
    """Without them the answers would be off by far more than any tolerance here."""
    models = family(tokenizer, name, "eager")
    states = models.policy.hidden_states(collate(examples(1))).flatten(0, 1)[:5].detach()
    with torch.no_grad():
        bare = models.roles.module.get_output_embeddings()(states)
        assert (models.policy.head(states).log_softmax(-1) - bare.log_softmax(-1)).abs().max() > 0.05


def test_a_family_that_does_something_else_to_its_logits_is_refused(tokenizer):
    base = random_base("llama", "eager")
    forward = base.forward

    def changed(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * torch.linspace(0.5, 1.5, VOCABULARY)
        return output

    base.forward = changed
    with pytest.raises(ConfigError, match="model.name: found llama, which changes its logits"):
        Models(settings("llama", "eager"), "no", torch.device("cpu"), base, tokenizer)


def test_a_backbone_that_is_not_where_it_should_be_is_refused(tokenizer):
    config = transformers.Llama4TextConfig(vocab_size=VOCABULARY, **LLAMA, num_local_experts=2,
                                           intermediate_size_mlp=64)
    base = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with pytest.raises(ConfigError, match="model.name: found llama4_text"):
        Models(settings("llama4", "eager"), "no", torch.device("cpu"), base, tokenizer)


def test_a_value_head_fits_states_that_are_projected_down(tokenizer):
    """OPT-350m: hidden size 1024, last states of 512."""
    config = transformers.OPTConfig(vocab_size=VOCABULARY, **{**OPT, "word_embed_proj_dim": 32})
    base = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    models = Models(settings("opt", "eager"), "no", torch.device("cpu"), base, tokenizer)
    models.add_role("value", trainable=True, seed=1).add_scalar_head()
    assert models.role("value").values(collate(examples(2))).isfinite().all()


# ---- refusals that need no weights

@pytest.mark.parametrize("kind, options, reason", [
    ("MistralConfig", {"sliding_window": 4096}, "4096 tokens"),
    ("Phi3Config", {"sliding_window": 2047}, "2047 tokens"),
    ("Gemma2Config", {}, "sliding-window"),
    ("Llama4TextConfig", {}, "chunked_attention"),
    ("Qwen3NextConfig", {}, "linear_attention"),
    ("MambaConfig", {}, "mamba"),
    ("BloomConfig", {}, "ALiBi"),
    ("MptConfig", {}, "ALiBi"),
    ("FalconConfig", {"alibi": True}, "ALiBi"),
    ("GPTNeoConfig", {}, "local attention"),
])
def test_refusals_by_config(kind, options, reason):
    assert reason in shared_rows_refusal(getattr(transformers, kind)(**options))


@pytest.mark.parametrize("kind, options",
                         [("LlamaConfig", {}), ("Qwen2Config", {}), ("Qwen3Config", {}), ("FalconConfig", {}),
                                           ("MistralConfig", {"sliding_window": None}), ("GPTNeoXConfig", {}),
                          ("OPTConfig", {})])
def test_full_attention_is_not_refused(kind, options):
    assert shared_rows_refusal(getattr(transformers, kind)(**options)) is None


def test_a_window_that_never_slides_is_no_reason():
    config = transformers.MistralConfig(sliding_window=4096)
    assert shared_rows_refusal(config, 4096) is None and "4096" in shared_rows_refusal(config, 4097)


def test_missing_attention_is_named(tmp_path):
    random_base("gpt-j", "eager").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="fix: model.attention=eager"):
        load_base(ModelConfig(name=str(tmp_path), precision="fp32", attention="sdpa"), torch.device("cpu"))
