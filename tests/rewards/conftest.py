"""What tests of reward sources share."""

import pytest
import torch


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory, tokenizer):
    """Small random classifiers with the lab's tokenizer: one logit, three classes, and one that knows no padding."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folders = {}
    for name, labels, pad in (("one", 1, 0), ("three", 3, 0), ("unpadded", 1, None)):
        torch.manual_seed(len(name))
        config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, intermediate_size=64,
                             num_attention_heads=4,
                             num_labels=labels, pad_token_id=pad)
        model = LlamaForSequenceClassification(config)
        torch.nn.init.normal_(model.score.weight)
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders
