"""4-bit bases, the types that a device computes in, what cannot be loaded, and settings that are refused."""

import pytest
import torch
from torch import nn

from algorithms.common.data.batches import collate
from algorithms.common.models import precision
from algorithms.common.models.model import Lora, ModelConfig, Models, load_base, model_digest, shared_rows_refusal
from algorithms.common.support.checkout import project
from algorithms.common.support.errors import ConfigError
from row_setup import examples, randomise, values_and_gradients

# ---- 4-bit

@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("nf4"), 64)


def save_llama(folder, hidden):
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=1525, hidden_size=hidden, num_hidden_layers=2, intermediate_size=128,
                                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
                     ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(project() / "benchmarks/lab/reviews").save_pretrained(folder)
    return folder


def nf4(folder, mixed="auto", **options):
    settings = {"max_length": 64, "max_prompt_length": 32, "lora": Lora(r=4, alpha=8), **options}
    models = Models(ModelConfig(name=str(folder), precision="nf4", **settings), mixed, torch.device("cpu"))
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    return models


def four_bit_layers(models):
    from bitsandbytes.nn import Linear4bit

    return [module for module in models.roles.module.modules() if isinstance(module, Linear4bit)]


def test_nf4_layers_compute_in_the_stated_type_and_are_not_repacked(nf4_folder):
    models = nf4(nf4_folder)
    layers = four_bit_layers(models)
    assert len(layers) == 14  # all but embeddings and output
    compute = torch.bfloat16 if precision.cpu_has_bf16() else torch.float32
    for layer in layers:
        assert layer.compute_dtype == compute and layer.support_avx512bf16_for_cpu is False
        assert layer.weight.quant_type == "nf4" and layer.weight.quant_state.nested  # double quantisation
        assert layer.weight.dtype == torch.uint8


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nf4_gradients_are_the_same_after_a_forward_without_grad(nf4_folder, checkpointing):
    """Loading already runs one; that nothing was repacked by it is what the dequantised weights below say."""
    models = nf4(nf4_folder, gradient_checkpointing=checkpointing)
    batch = collate(examples(2))
    before = values_and_gradients(models, batch)
    with torch.no_grad():
        models.policy.token_logprobs(batch)
        models.role("base").token_logprobs(batch)
    after = values_and_gradients(models, batch)
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])
    assert sum(g.norm() ** 2 for g in before[1].values()) > 1e-4


def test_nf4_gradients_are_those_of_the_dequantised_weights(nf4_folder, monkeypatch):
    """The oracle: the same rounded numbers in fp32 Linear layers."""
    import bitsandbytes.functional as bnb
    from bitsandbytes.nn import Linear4bit

    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)  # fp32 arithmetic: nothing else differs
    models = nf4(nf4_folder)
    batch = collate(examples(2), "plain")
    found = values_and_gradients(models, batch)
    for name, module in list(models.roles.module.named_modules()):
        if isinstance(module, Linear4bit):
            linear = nn.Linear(module.in_features, module.out_features, bias=False).requires_grad_(False)
            linear.weight.copy_(bnb.dequantize_4bit(module.weight.data, module.weight.quant_state))
            models.roles.module.get_submodule(name.removesuffix(".base_layer")).base_layer = linear
    assert not four_bit_layers(models)
    wanted = values_and_gradients(models, batch)
    torch.testing.assert_close(found[0], wanted[0], atol=1e-4, rtol=0)
    for key in wanted[1]:
        torch.testing.assert_close(found[1][key], wanted[1][key], atol=1e-4, rtol=1e-3)


def test_nf4_needs_inputs_in_multiples_of_64(tmp_path):
    with pytest.raises(ConfigError, match="48 inputs; expected a multiple of 64"):
        nf4(save_llama(tmp_path, 48))


def test_nf4_keeps_the_memory_it_has_and_upcasts_nothing(nf4_folder, monkeypatch):
    """peft.prepare_model_for_kbit_training would turn every other weight (embeddings, norms, output) into fp32."""
    import peft

    def never(*args, **kwargs):
        raise AssertionError("prepare_model_for_kbit_training was called")

    monkeypatch.setattr(peft, "prepare_model_for_kbit_training", never)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    models = nf4(nf4_folder)
    others = {p.dtype
              for key, p in models.roles.module.named_parameters() if "lora_" not in key and p.is_floating_point()}
    assert others == {torch.bfloat16}
    assert {p.dtype for p in models.policy.parameters().values()} == {torch.float32}  # adapters learn in fp32


# ---- precision and loading

def test_autocast_follows_the_hardware(monkeypatch, make_models):
    cpu = torch.device("cpu")
    for able, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda: able)
        assert precision.autocast_dtype("auto", cpu) is expected
        assert precision.autocast_dtype("bf16", cpu) is torch.bfloat16 and precision.autocast_dtype("no", cpu) is None


def gpu(monkeypatch, generation: int) -> torch.device:
    """What torch says of bf16 on an NVIDIA GPU of that generation: all emulate it, from 8 (Ampere) on they have it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: including_emulation or generation >= 8)
    return torch.device("cuda")


@pytest.mark.parametrize("generation, expected", [(7, None), (8, torch.bfloat16)])
def test_a_gpu_that_would_emulate_bf16_does_not_compute_in_it(monkeypatch, generation, expected):
    assert precision.autocast_dtype("auto", gpu(monkeypatch, generation)) is expected


@pytest.mark.parametrize("generation, weights, compute", [
    (8, "nf4", torch.bfloat16), (7, "nf4", torch.float32), (7, "bf16", None), (8, "fp32", None)])
def test_a_base_is_loaded_straight_onto_the_gpu(monkeypatch, generation, weights, compute):
    import transformers

    class Loaded(Exception):
        pass

    def from_pretrained(name, **options):
        raise Loaded(options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(Loaded) as told:
        load_base(ModelConfig(name="some/model", precision=weights), gpu(monkeypatch, generation))
    options = told.value.args[0]
    assert options["device_map"] == {"": 0}
    assert options["dtype"] == {"nf4": compute, "bf16": torch.bfloat16, "fp32": torch.float32}[weights]
    quantised = options["quantization_config"]
    assert (quantised and quantised.bnb_4bit_compute_dtype) == compute


def test_bf16_needs_the_right_vector_unit(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert precision.cpu_has_bf16() is False  # AVX2: torch would emulate it


def test_a_processor_without_bf16_loads_4_bit_with_fp32_arithmetic(monkeypatch, nf4_folder):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    models = nf4(nf4_folder)
    assert models.autocast_dtype is None
    assert {layer.compute_dtype for layer in four_bit_layers(models)} == {torch.float32}
    assert models.policy.token_logprobs(collate(examples(2))).isfinite().all()


def test_what_cannot_be_loaded_names_the_key(tmp_path):
    for name in ("no/such-model", str(tmp_path)):
        with pytest.raises(ConfigError, match="model.name"):
            load_base(ModelConfig(name=name, precision="fp32"), torch.device("cpu"))


def test_a_hub_id_that_cannot_be_read_names_the_key():
    with pytest.raises(ConfigError,
                       match="model.name: found 'nosuch/model', which could not be loaded .*hf auth login"):
        model_digest(ModelConfig(name="nosuch/model"))


def test_pickled_weights_are_refused(tmp_path):
    folder = save_llama(tmp_path, 64)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        load_base(ModelConfig(name=str(folder), precision="fp32"), torch.device("cpu"))


# ---- settings

@pytest.mark.parametrize("key, value",
                         [("precision", "int8"), ("attention", "flash"), ("rows", "fast"), ("keep", "middle"),
                                        ("max_prompt_length", 1024), ("max_prompt_length", 0)])
def test_model_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"model.{key}"):
        ModelConfig(name="x", **{key: value})


def test_a_chat_template_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="model.chat_template: found no file .*none.jinja; expected a Jinja file"):
        ModelConfig(name="x", chat_template=str(tmp_path / "none.jinja"))


def test_a_prompt_is_cut_so_that_prompt_and_answer_fit(make_models):
    models = make_models()  # max_length 64, max_prompt_length 32
    long = "the film was good " * 40
    assert len(models.prompt_ids(long, 8)) == 32 and len(models.prompt_ids(long, 40)) == 24
    short = "the film was good"
    assert models.prompt_ids(short, 8) == models.template.prompt_ids(short)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        models.prompt_ids(short, 64)


def test_more_positions_than_the_model_has_are_refused(make_models):
    assert make_models(max_length=256).config.max_length == 256
    with pytest.raises(ConfigError, match="model.max_length: found 257; expected at most 256"):
        make_models(max_length=257)


def test_layers_that_are_not_there_are_named(make_models):
    with pytest.raises(ConfigError, match="model.lora: found.*qproj"):
        make_models(lora=Lora(target_modules=["qproj"])).add_role("policy", trainable=True)


def test_shared_rows_can_be_asked_for_only_where_they_are_exact(make_models):
    assert make_models(rows="plain").layout == "plain" and make_models(rows="shared").layout == "shared"
    assert shared_rows_refusal(make_models().hf_config) is None
