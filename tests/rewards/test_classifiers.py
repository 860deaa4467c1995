"""Classifiers as reward sources: what they answer, by families, lengths and templates; which are refused."""

import copy
import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from algorithms.common.data.records import Records
from algorithms.common.data.records.record import Record
from algorithms.common.rewards.classifier import Classifier, of_equal_length
from algorithms.common.rewards.sources import Weighted
from algorithms.common.support.errors import ConfigError
from few import few
from reward_setup import MESSAGES, opened, response
from stage_setup import make_data


class OnCpu:
    device = torch.device("cpu")
    used: set = set()


MIXED = [response(" was good and the staff was great", record="long"), response(" was bad", record="short"),
         response(" it", record="shorter")]


def by_hand(folder, *texts: str) -> list[torch.Tensor]:
    """Logits of every text alone, read at its last token."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return [model.score(model.model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1])
                for text in texts]


@pytest.mark.parametrize("name", ["one", "unpadded"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_classifiers_logit_does_not_depend_on_padding(classifiers, name, batch_size):
    found = opened(Classifier(str(classifiers[name]), input="text"), OnCpu, batch_size=batch_size)(MIXED)
    expected = [logits.item() for logits in by_hand(classifiers[name], *[r.prompt + r.text for r in MIXED])]
    assert found == pytest.approx(expected, abs=1e-5) and len({round(value, 4) for value in found}) == 3


def families(size: int, end: int) -> dict:
    """Small configurations by family, whose text model has a pad id of its own, none, the end token or any other."""
    import transformers as hf

    wide = {"vocab_size": size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4}
    narrow = {"vocab_size": size, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return {
        "llama, another": (hf.LlamaConfig, {**wide, "pad_token_id": 7}),
        "llama, none": (hf.LlamaConfig, {**wide, "pad_token_id": None}),
        "qwen2, end": (hf.Qwen2Config, {**wide, "num_key_value_heads": 4, "pad_token_id": end}),
        "mistral, another": (hf.MistralConfig, {**wide, "num_key_value_heads": 4, "pad_token_id": 7}),
        "gpt2, beyond": (hf.GPT2Config, {**narrow, "pad_token_id": size + 3}),
        "gpt2, another": (hf.GPT2Config, {**narrow, "pad_token_id": 7}),
        "neox, another": (hf.GPTNeoXConfig, {**wide, "pad_token_id": 7}),
        "bert, another": (hf.BertConfig, {**wide, "pad_token_id": 7}),
        "roberta, another": (hf.RobertaConfig, {**wide, "pad_token_id": 7}),
        "xlnet, last place": (hf.XLNetConfig, {"vocab_size": size, "d_model": 32, "d_inner": 64, "n_layer": 2,
                                               "n_head": 4})}


@pytest.mark.parametrize("family", few(families(2, 0), ["llama, none", "gpt2, beyond", "bert, another",
                                                        "xlnet, last place"]))
def test_a_score_does_not_depend_on_its_neighbours(family, tokenizer, tmp_path):
    """It is what transformers gives for the text alone, whatever the pad ids of model and tokenizer are."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    # transformers gives Qwen2 tokenizers an end token of their own: rows to spare
    kind, options = families(len(tokenizer) + 8, tokenizer.eos_token_id)[family]
    model = AutoModelForSequenceClassification.from_config(kind(**options, num_labels=1, initializer_range=1.0)).eval()
    model.save_pretrained(tmp_path)
    texts = [*MIXED, response(" was kind", record="as short"), MIXED[0]]
    for pad in (tokenizer.pad_token, tokenizer.eos_token, None):
        for side in ("left", "right"):
            own = copy.deepcopy(tokenizer)
            own.pad_token, own.padding_side = pad, side
            own.save_pretrained(tmp_path)
            source = Classifier(str(tmp_path), input="text", max_length=64)
            source.check(make_data())
            with torch.no_grad():
                alone = [model(**own(one.prompt + one.text, return_tensors="pt")).logits.item() for one in texts]
            assert opened(source, OnCpu, batch_size=4)(texts) == pytest.approx(alone, abs=1e-4)
            assert len({round(value, 3) for value in alone}) == 4


def test_an_encoder_decoder_reads_at_end_tokens(tokenizer, tmp_path):
    """Which its tokenizer has to set; in a response may be more of them than in one of the same length."""
    from tokenizers.processors import TemplateProcessing
    from transformers import BartConfig, BartForSequenceClassification

    torch.manual_seed(1)
    own, end = copy.deepcopy(tokenizer), (tokenizer.eos_token, tokenizer.eos_token_id)
    config = BartConfig(vocab_size=len(own), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
                        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_labels=1, init_std=1.0,
                        eos_token_id=end[1], decoder_start_token_id=end[1], max_position_embeddings=64)
    model = BartForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    source = Classifier(str(tmp_path), input="text", max_length=64)
    with pytest.raises(ConfigError, match="a bart, which reads a text at its end token"):
        source.check(make_data())
    own.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    own.save_pretrained(tmp_path)
    source.check(make_data())
    texts = [response(" was good good"), response(f" was good{end[0]}"), response(" was bad bad")]
    ids = [own(one.prompt + one.text, return_tensors="pt") for one in texts]
    assert len({one["input_ids"].shape for one in ids}) == 1
    with torch.no_grad():
        alone = [model(**one).logits.item() for one in ids]
    assert opened(source, OnCpu, batch_size=4)(texts) == pytest.approx(alone, abs=1e-4)


def test_texts_of_equal_length_share_a_pass():
    assert of_equal_length([3, 5, 3, 3, 5, 2], 2) == [[0, 2], [3], [1, 4], [5]]


def test_a_family_that_counts_positions_by_its_pad_id_needs_one(tokenizer, tmp_path):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16,
                           num_attention_heads=2, num_labels=1, pad_token_id=None)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="^reward.name: found .* a roberta without pad_token_id in its config.json; "):
        Classifier(str(tmp_path)).check(make_data())


def test_turns_that_a_classifiers_template_refuses_are_told_before_training(classifiers, tmp_path):
    shutil.copytree(classifiers["one"], tmp_path / "chat")
    (tmp_path / "chat/chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    asked = Record([{"role": "system", "content": "be brief"}, *MESSAGES], [])
    told = dataclasses.replace(make_data(), prompts=Records.from_list([asked]))
    source = Classifier(str(tmp_path / "chat"), input="chat")
    source.check(make_data())
    message = (r"^reward.input: found chat, but .* refuses the turns \['system', 'user', 'assistant'\] "
               r"\(no system here\); expected .*; fix: reward.input=pair")
    with pytest.raises(ConfigError, match=message):
        source.check(told)
    dataclasses.replace(source, input="pair").check(told)


def test_what_a_classifiers_template_refuses_for_its_text_is_one_message_too(classifiers, tmp_path):
    shutil.copytree(classifiers["one"], tmp_path / "chat")
    (tmp_path / "chat/chat_template.jinja").write_text(
        "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('not that word') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}")
    source = Classifier(str(tmp_path / "chat"), input="chat")
    source.check(make_data())
    with pytest.raises(ConfigError, match=r"refuses the turns \['user', 'assistant'\] \(not that word\)"):
        opened(source, OnCpu)(MIXED)


def test_a_model_without_a_classifiers_head_is_refused(classifiers, tmp_path):
    """transformers draws a head for it, and says so in its log alone."""
    shutil.copytree(classifiers["three"], tmp_path / "other")
    path = tmp_path / "other/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ConfigError, match="^reward.name: found .*, a LlamaForCausalLM: its head would be random"):
        Classifier(str(tmp_path / "other"), label=0).check(make_data())
    weights = load_file(classifiers["three"] / "model.safetensors")
    del weights["score.weight"]
    shutil.copytree(classifiers["three"], tmp_path / "less")
    save_file(weights, tmp_path / "less/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="^reward.name: found .*, without weights for score.weight: its head would"):
        opened(Classifier(str(tmp_path / "less"), label=0), OnCpu)


def test_a_classifier_that_lacks_rows_for_its_tokenizer_is_refused_with_both_numbers(classifiers, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(classifiers["one"], tmp_path / "more")
    own = AutoTokenizer.from_pretrained(tmp_path / "more")
    rows = len(own)
    own.add_tokens(["<more-1>", "<more-2>"])
    own.save_pretrained(tmp_path / "more")
    with pytest.raises(ConfigError, match=f"^reward.name: found a tokenizer of {rows + 2} tokens for an embedding of "
                                          f"{rows} rows in .*; fix: "):
        Classifier(str(tmp_path / "more"), input="text").check(make_data())


def test_a_classs_probability(classifiers):
    expected = [logits.softmax(-1).tolist()
                for logits in by_hand(classifiers["three"], *[r.prompt + r.text for r in MIXED])]
    for label in range(3):
        found = opened(Classifier(str(classifiers["three"]), input="text", label=label), OnCpu)(MIXED)
        assert found == pytest.approx([row[label] for row in expected], abs=1e-5)


def test_text_is_rendered_the_classifiers_way(classifiers, tokenizer, tmp_path):
    """Messages are not read in the policy's markup: as a transcript, or in the classifier's own chat template."""
    rendered = response("It was.", "<policy>How was it?</policy>", source=MESSAGES)
    text = opened(Classifier(str(classifiers["one"]), input="text"), OnCpu)([rendered])
    (expected,) = by_hand(classifiers["one"], "\n\nHuman: How was it?\n\nAssistant: It was.")
    assert text == pytest.approx([expected.item()], abs=1e-5)
    folder = tmp_path / "chat"
    folder.mkdir()
    for path in classifiers["one"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    chat = opened(Classifier(str(folder), input="chat"), OnCpu)
    expected = [by_hand(folder, text)[0].item()
                for text in ("[user]How was it?[assistant]It was.", "[user] the room[assistant] was good")]
    assert chat([rendered, response()]) == pytest.approx(expected, abs=1e-5), "one BOS, whoever writes it"
    with pytest.raises(ConfigError, match="reward.input: found chat, but .* has no chat template"):
        opened(Classifier(str(classifiers["one"]), input="chat"), OnCpu)


def test_a_long_text_keeps_its_end(classifiers):
    long = response(" was good", " the room" * 60)
    source = Classifier(str(classifiers["one"]), input="text", max_length=16)
    (cut,), (whole,) = opened(source, OnCpu)([long]), opened(dataclasses.replace(source, max_length=512), OnCpu)([long])
    (other,) = opened(source, OnCpu)([response(" was bad", " the room" * 60)])
    assert cut != whole and cut != other


@pytest.fixture(scope="module")
def with_positions(tmp_path_factory, tokenizer):
    """Small random classifiers with a table of positions: BERT's 16; RoBERTa's 20 with padding at 2, so 17 are read."""
    from transformers import BertConfig, BertForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

    folders = {}
    for name, config, kind, options in (
            ("bert", BertConfig, BertForSequenceClassification, {"max_position_embeddings": 16, "pad_token_id": 0}),
            ("roberta", RobertaConfig, RobertaForSequenceClassification,
             {"max_position_embeddings": 20, "pad_token_id": 2})):
        torch.manual_seed(5)
        model = kind(config(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, intermediate_size=16,
                            num_attention_heads=2, num_labels=1, initializer_range=1.0, **options))
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("name, most", [("bert", 16), ("roberta", 17)])
def test_no_more_tokens_than_the_classifier_has_positions(with_positions, name, most):
    long = response(" was good" * 30, " the room" * 60)
    source = Classifier(str(with_positions[name]), input="text", max_length=most)
    source.check(make_data())
    assert math.isfinite(opened(source, OnCpu)([long])[0]), "the longest that fits does"
    for refuse in (lambda one: one.check(make_data()), lambda one: opened(one, OnCpu),
                   lambda one: Weighted({"a": one}, {"a": 1.0}).check(make_data())):
        with pytest.raises(ConfigError,
                           match=rf"reward.max_length: found {most + 1}; expected at most {most}, the tokens that .* "
                                              rf"takes; fix: reward.max_length={most}"):
            refuse(dataclasses.replace(source, max_length=most + 1))


def test_no_more_tokens_than_the_tokenizer_states_and_no_fewer_than_its_own(classifiers, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(classifiers["one"], folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "model_max_length": 40}))
    Classifier(str(folder), max_length=40).check(make_data())
    with pytest.raises(ConfigError, match="reward.max_length: found 41; expected at most 40"):
        Classifier(str(folder), max_length=41).check(make_data())
    for kind, least in (("pair", 3), ("text", 2)):  # BOS, and a token of each text
        Classifier(str(folder), input=kind, max_length=least).check(make_data())
        with pytest.raises(ConfigError, match=f"reward.max_length: found {least - 1}; expected at least {least}"):
            Classifier(str(folder), input=kind, max_length=least - 1).check(make_data())


def test_a_pair_loses_its_prompt_and_then_its_response(classifiers, caplog):
    """Eight tokens are BOS and seven: a response of six leaves the prompt one, of more than that each its half."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifiers["one"])
    ids = {text: tokenizer(text, add_special_tokens=False).input_ids for text in (" the room", " good", " bad")}
    assert all(len(found) <= 2 for found in ids.values()), "words of the lab"
    prompt = ids[" the room"] * 10
    fits, over = " good" * (6 // len(ids[" good"])), " bad" * 20
    source = Classifier(str(classifiers["one"]), max_length=8)
    scorer, seen = opened(source, OnCpu, batch_size=2), []
    encode = source._encoded
    source._encoded = lambda *given: seen.append(encode(*given)) or seen[-1]
    together = scorer([response(fits, " the room" * 10, record="fits"), response(over, " the room" * 10, record="over"),
                       response(over, " the room" * 10, record="again"),
                       response(" good", " the room", record="short")])
    response_ids, over_ids = ids[" good"] * (6 // len(ids[" good"])), ids[" bad"] * 20
    bos = tokenizer.bos_token_id
    assert seen[0]["input_ids"] == [bos, *prompt[-(7 - len(response_ids)):], *response_ids]
    assert seen[1]["input_ids"] in ([bos, *prompt[-3:], *over_ids[-4:]], [bos, *prompt[-4:], *over_ids[-3:]])
    assert seen[3]["input_ids"] == [bos, *ids[" the room"], *ids[" good"]]
    assert [one.message for one in caplog.records if "record over has" in one.message], "said once"
    assert len([one for one in caplog.records if "reward.max_length=8" in one.message]) == 1
    alone = [opened(Classifier(str(classifiers["one"]), max_length=8), OnCpu, batch_size=1)([one])[0] for one in
             (response(fits, " the room" * 10), response(over, " the room" * 10))]
    assert together[:2] == pytest.approx(alone, abs=1e-5) and together[1] == pytest.approx(together[2], abs=1e-5)


@pytest.mark.parametrize("name, options, message", [
    ("three", {}, "reward.label: found None for a classifier of 3 outputs; expected a class from 0 to 2"),
    ("three", {"label": 3}, "found 3 for a classifier of 3 outputs"),
    ("one", {"label": 0}, "found 0 for a classifier of 1 outputs; expected null")])
def test_labels_that_are_not_there(classifiers, name, options, message):
    for refuse in (lambda one: opened(one, OnCpu), lambda one: one.check(make_data())):
        with pytest.raises(ConfigError, match=message):
            refuse(Classifier(str(classifiers[name]), **options))


def test_wrong_classifiers():
    for options, message in (({"input": "json"}, "reward.input: found 'json'; expected one of pair, text, chat"),
                             ({"precision": "fp8"}, "reward.precision"), ({"max_length": 0}, "reward.max_length"),
                             ({"label": -1}, "reward.label")):
        with pytest.raises(ConfigError, match=message):
            Classifier("x", **options)
    with pytest.raises(ConfigError, match="reward.name: found '/nowhere', and no such folder"):
        opened(Classifier("/nowhere"), OnCpu)
    with pytest.raises(ConfigError, match="reward.name: found '/nowhere', and no such folder"):
        Classifier("/nowhere").content()
