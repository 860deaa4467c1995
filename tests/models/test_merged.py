"""A role merged into its base computes the same, and leaves the base as it was."""

import pytest
import torch

from algorithms.common.models import roles as roles_module
from algorithms.common.models.model import Lora
from role_setup import BOTH, four_roles
from row_setup import randomise


@BOTH
def test_merged_computes_the_same_and_gives_the_base_back(make_models, lora):
    models = four_roles(make_models(lora=lora))
    randomise(models)
    before = dict(models.roles.module.named_parameters())
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        with models.roles.use("policy"):
            wanted = models.roles.module(ids).logits
        with models.roles.use("value"), models.roles.merged("policy"):
            torch.testing.assert_close(models.roles.module(ids).logits, wanted, atol=1e-5, rtol=0)
        with models.roles.merged("base"):
            assert lora is None or not torch.allclose(models.roles.module(ids).logits, wanted, atol=1e-3)
    with pytest.raises(RuntimeError, match="inside"), models.roles.merged("policy"):
        raise RuntimeError("inside")
    assert models.roles.current == "base"
    after = dict(models.roles.module.named_parameters())
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)
    with torch.no_grad(), models.roles.use("policy"):  # the adapters compute again, not what stood in for them
        assert torch.equal(models.roles.module(ids).logits, wanted)
    with pytest.raises(KeyError, match="polcy"), models.roles.merged("polcy"):
        pass


def test_no_role_computes_while_another_is_merged(make_models):
    """It would be the merged one, or the sum of both, without an error."""
    models = four_roles(make_models())
    randomise(models)
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad(), models.roles.use("value"):
        wanted = models.roles.module(ids).logits
    for other in ("value", "base", "policy"):
        for switch in (models.roles.use, models.roles.merged):
            with models.roles.merged("policy"), pytest.raises(RuntimeError, match="'policy' merged"), switch(other):
                pass
    with models.roles.merged("policy"):
        with pytest.raises(RuntimeError, match="'policy' merged"):
            models.roles.add("another", trainable=True)
        with pytest.raises(RuntimeError, match="'policy' merged"):
            models.roles.remove("value")
    with torch.no_grad(), models.roles.use("value"):
        assert torch.equal(models.roles.module(ids).logits, wanted)


def layers_not_replaced(models, name):
    """How many of PEFT's layers keep their adapter while a role is merged, which answers as it does on its own."""
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        with models.roles.use(name):
            wanted = models.roles.module(ids).logits
        with models.roles.merged(name):
            torch.testing.assert_close(models.roles.module(ids).logits, wanted, atol=1e-5, rtol=0)
            return sum(layer.forward != layer.base_layer.forward for layer in models.roles._layers)


def test_merged_where_the_sum_is_exact_alone(make_models):
    models = four_roles(make_models())
    randomise(models)
    assert layers_not_replaced(models, "policy") == 0
    models.roles._layers[0].lora_bias["policy"] = True  # more than a product is added
    assert layers_not_replaced(models, "policy") == len(models.roles._layers)
    models.roles._layers[0].lora_bias["policy"] = False
    models.roles.module.to(torch.bfloat16)
    assert layers_not_replaced(models, "policy") == len(models.roles._layers)


def test_merged_takes_no_more_than_its_share_of_memory(make_models, monkeypatch):
    models = four_roles(make_models())
    randomise(models)
    size = sum(layer.base_layer.weight.nbytes for layer in models.roles._layers)
    monkeypatch.setattr(roles_module, "MERGED_MOST", size)
    assert layers_not_replaced(models, "policy") == 0
    monkeypatch.setattr(roles_module, "MERGED_MOST", size - 1)
    assert layers_not_replaced(models, "policy") == len(models.roles._layers)


def test_merged_leaves_the_other_half_of_a_tied_pair(make_models):
    models = make_models(lora=Lora(r=4, alpha=8, target_modules=["lm_head"]))
    models.roles.module.config.tie_word_embeddings = True
    models.roles.module.tie_weights()
    models.add_role("policy", trainable=True, seed=1)
    randomise(models)
    inputs, outputs = models.roles.module.get_input_embeddings(), models.roles.module.get_output_embeddings().base_layer
    before = inputs.weight.clone()
    assert inputs.weight is outputs.weight
    with models.roles.merged("policy"):
        assert torch.equal(inputs.weight, before) and not torch.equal(outputs.weight, before)
    assert inputs.weight is outputs.weight
