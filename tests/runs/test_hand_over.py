"""A run's folder and a merged model hold what training used: plain transformers stops where an answer ends."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from algorithms.common.data.template import Template
from algorithms.common.models.model import ModelConfig, load_tokenizer
from algorithms.common.runs.hand_over import hand_over
from algorithms.common.runs.own_model import adopt
from algorithms.common.runs.settings import build
from algorithms.common.runs.tasks import adapter_of
from algorithms.common.support.errors import ConfigError
from command_line import composed, invoke

CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
TURN = ["<|im_start|>", "<|im_end|>", "<|eom_id|>"]    # the last ends a message in which the base calls a tool
ENDS = ["<|im_end|>", "<|eom_id|>"]
QUESTION = [{"role": "user", "content": "good or bad"}]
MODEL = ["model.precision=fp32", "trainer.mixed_precision=no", "model.max_length=64", "model.max_prompt_length=32"]


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    """A random Llama, whose end token is not the one that ends a turn, and whose own generation settings are others."""
    folder = tmp_path_factory.mktemp("base")
    own = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    own.add_special_tokens({"additional_special_tokens": TURN})
    own.save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(own), hidden_size=64, num_hidden_layers=2, intermediate_size=128, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2))
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, own.convert_tokens_to_ids(ENDS[1])],
                                               pad_token_id=3, do_sample=True, top_k=7)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "chatml.jinja"
    path.write_text(CHATML)
    return path


@pytest.fixture(scope="module", params=["adapter", "whole"])
def run(request, tmp_path_factory, base, chatml):
    """A model that has learned to answer "yes", and to end its turn then: its kind, its folder and its command line."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "rows.jsonl"
    row = {"prompt": QUESTION, "response": "yes"}
    data.write_text("".join(
        json.dumps({**row, "prompt": [{"role": "user", "content": f"good or bad {i}"}]}) + "\n" for i in range(40)))
    targets = "model.lora.target_modules=[embed_tokens,v_proj,down_proj,lm_head]"  # a random output layer says nothing
    lora = ["model.lora=null"] if request.param == "whole" else ["model.lora.r=16", targets]
    options = [*MODEL, f"model.name={base}"]
    ended = invoke("algorithm=sft", "data=file", f"data.path={data}", *options, *lora, f"model.chat_template={chatml}",
                   "recipe.steps=40", "recipe.batch_size=8", "recipe.lr=1e-2", "eval.prompts=2",
                   "eval.sampling.max_new_tokens=4", "trainer.progress=false", f"stages.folder={folder}/stages",
                   f"hydra.run.dir={folder}/run")
    assert ended.status == 0, ended.err
    last = json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss/policy"] < 0.05, "it has learned the answer by heart"
    return request.param, folder / "run", [f"adapter={folder / 'run'}", *options]


def answer(model, tokenizer, **options) -> str:
    """What plain transformers generates, special tokens and all; greedy, so that the test hangs on no draw."""
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    found = model.generate(**ids, max_new_tokens=12, do_sample=False, **options)
    return tokenizer.decode(found[0, ids["input_ids"].shape[1]:])


def test_the_run_s_folder_holds_what_it_was_trained_with(run, base):
    kind, folder, _ = run
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == "{{ bos_token }}" + CHATML, "the tokenizer sets a BOS before a prompt"
    assert tokenizer("good <|im_end|>").input_ids == AutoTokenizer.from_pretrained(base)("good <|im_end|>").input_ids
    settings = GenerationConfig.from_pretrained(folder)
    assert settings.eos_token_id == sorted([tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(ENDS)])
    assert settings.pad_token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_pretrained(base if kind == "adapter" else folder).eval()
    if kind == "adapter":
        model = PeftModel.from_pretrained(model, folder)
        model.generation_config = settings
    else:
        assert model.generation_config.top_k == 7, "the base's other settings stay"
    assert answer(model, tokenizer) == "yes<|im_end|>"


def test_the_card_says_how_to_load_it(run, monkeypatch):
    """Its code, run where the card lies."""
    _, folder, _ = run
    monkeypatch.chdir(folder)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert answer(names["model"].eval(), names["tokenizer"]) == "yes<|im_end|>"


def test_a_card_names_the_template_arguments(run, base, tmp_path):
    """They lie in no file of the tokenizer."""
    template = tmp_path / "asks.jinja"
    template.write_text(CHATML + "{%- if shout is defined %}{%- endif %}")
    ended = invoke("algorithm=sft", "data=file", f"data.path={run[1].parent / 'rows.jsonl'}", *MODEL,
                   f"model.name={base}",
                   f"model.chat_template={template}", "model.template_arguments={shout: true}", "recipe.steps=1",
                   "eval.prompts=2", "eval.sampling.max_new_tokens=4", "trainer.progress=false",
                   f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    assert '- model.template_arguments: {"shout": true}\n' in (tmp_path / "run/README.md").read_text()
    assert "template_arguments" not in (run[1] / "README.md").read_text()


def test_a_merged_model_stops(run, base, chatml, tmp_path):
    kind, folder, command = run
    ended = invoke("task=merge", *command, f"hydra.run.dir={tmp_path}")
    if kind == "whole":
        assert ended.status == 2 and "found a whole model" in ended.err
        return
    assert ended.status == 0, ended.err
    assert "# sft on " in (tmp_path / "merged/README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == sorted(
        [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(ENDS)])
    trained = Template(load_tokenizer(ModelConfig(str(base), max_length=64, max_prompt_length=32)), str(chatml))
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == trained.prompt_ids(QUESTION) and ids[0] == tokenizer.bos_token_id
    assert answer(model, tokenizer) == "yes<|im_end|>"
    assert model.config.eos_token_id == model.generation_config.eos_token_id
    assert model.generation_config.top_k == 7, "the base's other settings stay"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    assert answer(model, tokenizer) != "yes<|im_end|>", "otherwise this test would say nothing"


def test_chat_uses_the_run_s_template(run, tmp_path):
    _, _, command = run
    ended = invoke("task=chat", *command, "eval.sampling.max_new_tokens=12", "eval.sampling.temperature=0",
                   f"hydra.run.dir={tmp_path}", stdin=b"good or bad\n\n")
    assert ended.status == 0, ended.err
    assert "Write a message" in ended.out and ended.out.partition("\n> ")[2].startswith("yes\n")


def test_a_run_s_folder_names_the_model_it_was_made_with(run, base, tmp_path):
    """So a command need not, and a folder from elsewhere makes it run no code."""
    kind, folder, _ = run
    ended = invoke("task=chat", f"adapter={folder}", "trainer.mixed_precision=no", f"hydra.run.dir={tmp_path}",
                   "eval.sampling.temperature=0", "eval.sampling.max_new_tokens=12", stdin=b"good or bad\n\n")
    assert ended.status == 0, ended.err
    assert ended.out.partition("\n> ")[2].startswith("yes\n") and f"model: {base}, as {folder}/result.json" in ended.out
    config = composed()
    adopt(config, folder, ["task=chat"])
    assert (config.model.name, config.model.max_length, config.model.lora) == (str(base), 64, None)
    assert config.eval.sampling.max_new_tokens == 4
    for given in (["model=tiny"], ["model.precision=fp32", "eval.samples=1"]):
        config = composed()
        adopt(config, folder, given)
        assert config.model == composed().model
    told = json.loads((folder / "result.json").read_text())
    told["config"]["model"]["trust_remote_code"] = True
    (tmp_path / "result.json").write_text(json.dumps(told))
    adopt(config, tmp_path, [])
    assert config.model.trust_remote_code is False
    for target in ("os.system", "algorithms.dpo.DPO", "algorithms.nothing.Here", "torch.hub.load"):
        told["config"]["model"]["_target_"] = target
        (tmp_path / "result.json").write_text(json.dumps(told))
        config = composed()
        adopt(config, tmp_path, [])
        assert config.model == composed().model, target


def test_values_of_a_folder_from_elsewhere_call_nothing(tmp_path, monkeypatch):
    """Nor do they look anything up: a model's name is sent to the hub."""
    monkeypatch.setenv("OWN_TOKEN", "secret")
    model = {**OmegaConf.to_container(composed().model, resolve=True), "name": "${oc.env:OWN_TOKEN}", "_args_": [1],
             "max_length": 96, "template_arguments": {
                 "date": [{"_target_": "subprocess.Popen", "args": ["touch", f"{tmp_path}/called"]}]}}
    (tmp_path / "result.json").write_text(json.dumps({"config": {"model": model}}))
    config = composed()
    adopt(config, tmp_path, [])
    assert config.model.max_length == 96 and config.model.keys().isdisjoint(("name", "template_arguments", "_args_"))
    with pytest.raises(ConfigError, match="model.name: found no value"):
        build(config, ("model",))
    assert not (tmp_path / "called").exists()


def test_what_was_trained_on_transcripts_is_talked_to_in_them(base, tmp_path):
    """Without a chat template the form of the transcripts is handed over as one."""
    data, talk = tmp_path / "rows.jsonl", [*QUESTION, {"role": "assistant", "content": "yes"}, *QUESTION]
    turns = [[{"role": "user", "content": f"good or bad {place}"}, *talk[1:]] for place in range(16)]
    data.write_text("".join(json.dumps({"prompt": one, "response": "yes"}) + "\n" for one in turns))
    options = [*MODEL, f"model.name={base}", "eval.sampling.max_new_tokens=4"]
    plain = ["algorithm=sft", "data=file", *options, "recipe.steps=1", "recipe.batch_size=2", "eval.prompts=2",
             "trainer.progress=false", f"stages.folder={tmp_path}/stages"]
    ended = invoke(*plain, f"data.path={data}", "data.heldout=0.5", f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    given = adapter_of(composed(f"adapter={tmp_path}/run", *options))[1]
    trained, served = (Template(load_tokenizer(given), path) for path in (None, given.chat_template))
    own = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert not trained.chat and served.chat and trained.stop_ids == served.stop_ids
    ids = own.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == served.prompt_ids(talk) == trained.prompt_ids(talk)
    assert served.response_ids(talk, "yes") == trained.response_ids(talk, "yes")
    chat = invoke("task=chat", f"adapter={tmp_path}/run", *options, f"hydra.run.dir={tmp_path}/chat",
                  stdin=b"good or bad\n/reset\n\n")
    assert chat.status == 0, chat.err
    form = rf"chat_template.jinja: '{own.bos_token}\n\nHuman: …\n\nAssistant: …'"
    assert form in chat.out and "/reset begins anew" in chat.out
    data.write_text("".join(f'{{"prompt": "good {place}", "response": " yes"}}\n' for place in range(16)))
    assert invoke(*plain, f"data.path={data}", "data.heldout=0.5", f"hydra.run.dir={tmp_path}/text").status == 0
    assert not (tmp_path / "text/chat_template.jinja").exists(), "it read no conversations"


def test_the_same_template_may_be_given_and_another_is_refused(run, chatml, tmp_path):
    _, folder, command = run
    copy = tmp_path / "copy.jinja"
    copy.write_text(CHATML)
    chosen = adapter_of(composed(*command, f"model.chat_template={copy}"))[1]
    assert chosen.chat_template == str(folder / "chat_template.jinja")
    copy.write_text(CHATML + " ")
    for task in ("chat", "merge"):
        ended = invoke(f"task={task}", *command, f"model.chat_template={copy}", f"hydra.run.dir={tmp_path}/out")
        assert ended.status == 2 and ended.err.startswith(f"model.chat_template: found {copy}, which is not the chat")


def test_a_folder_with_no_tokenizer_takes_the_template_that_is_given(run, chatml, tmp_path):
    """As those of other programs, and of runs before the tokenizer was part of them."""
    kind, folder, command = run
    name = "adapter_model.safetensors" if kind == "adapter" else "model.safetensors"
    for file in (name, "adapter_config.json"):
        if (folder / file).is_file():
            (tmp_path / file).write_bytes((folder / file).read_bytes())
    chosen = adapter_of(composed(*command[1:], f"adapter={tmp_path}", f"model.chat_template={chatml}"))[1]
    assert chosen.chat_template == str(chatml)


def test_a_template_inside_the_tokenizers_settings_is_asked_for_beside_them(run, tmp_path):
    _, folder, command = run
    for path in folder.iterdir():
        if path.suffix in (".json", ".safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": CHATML}))
    config = composed(*command[1:], f"adapter={tmp_path}")
    with pytest.raises(ConfigError, match=f"adapter: found a chat template inside {settings}.*fix: AutoTokenizer"):
        adapter_of(config)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)  # the fix
    assert adapter_of(config)[1].chat_template == str(tmp_path / "chat_template.jinja")


def test_a_model_that_scores_is_neither_talked_to_nor_merged(tmp_path, run):
    _, folder, command = run
    for path in folder.iterdir():
        if path.suffix in (".json", ".safetensors", ".jinja"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "scalar_head.safetensors").touch()
    for task in ("chat", "merge"):
        ended = invoke(f"task={task}", *command[1:], f"adapter={tmp_path}", f"hydra.run.dir={tmp_path}/out")
        assert ended.status == 2 and ended.err.startswith("adapter: found scalar_head.safetensors in ")


def test_one_end_token_is_a_number_and_padding_is_a_token(base, tmp_path):
    template = Template(load_tokenizer(ModelConfig(str(base), max_length=64, max_prompt_length=32)))
    template.tokenizer.pad_token = None
    hand_over(template, tmp_path)
    settings = GenerationConfig.from_pretrained(tmp_path)
    assert settings.eos_token_id == settings.pad_token_id == template.tokenizer.eos_token_id
    assert not (tmp_path / "config.json").exists()
