"""Conversations in supervised learning: which tokens of a row are learned; each answer alone gives the same."""

import copy
import dataclasses
import hashlib
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from algorithms.common.data.batches import collate, counts
from algorithms.common.data.records import DataSets, LoadReport, Records, pairs
from algorithms.common.data.records.record import MARKS, TRANSCRIPT, Record, parse_transcript, render_transcript
from algorithms.common.data.template import Example, Template
from algorithms.common.models.model import Lora, ModelConfig, Models
from algorithms.common.recipe import Recipe
from algorithms.common.runs.stages import Bench
from algorithms.common.support.errors import ConfigError, DataError
from algorithms.common.support.store import Store
from algorithms.common.training.loop import run_losses
from algorithms.dpo import DPO
from algorithms.sft import SFT
from chat_setup import CHATML, CONVERSATION, HEADERS, LED, TALK, in_one_row, learned, speaking, text
from stage_setup import EVAL, MODEL, TRAINER
from training_setup import lines, make_context, randomize, two_roles

NO_THOUGHTS = CHATML.replace("{{ m['content'] }}", "{{ m['content'].split('</think>')[-1] }}")
FORMS = {"transcript": None, "chatml": CHATML, "headers": HEADERS}
forms = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def templates(tokenizer):
    return {form: Template(speaking(tokenizer, chat)) for form, chat in FORMS.items()}


def chat_models(tokenizer, chat: str | None, folder, **options) -> Models:
    """A random Llama whose chat template comes from a file and replaces another."""
    path = None
    if chat is not None:
        path = folder / "chat.jinja"
        path.write_text(chat, encoding="utf-8")
    tokenizer = speaking(tokenizer, None if chat is None else "{{ 'the tokenizer\\'s own' }}")
    settings = {"max_length": 200, "max_prompt_length": 150, "attention": "eager", "lora": Lora(r=4, alpha=8),
                **options}
    config = ModelConfig(name="random-llama", precision="fp32", gradient_checkpointing=False,
                         chat_template=None if path is None else str(path), **settings)
    torch.manual_seed(0)
    base = LlamaForCausalLM._from_config(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, intermediate_size=64,
                    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256),
        attn_implementation=config.attention).eval()
    return Models(config, mixed_precision="no", base=base, tokenizer=tokenizer)


def expanded(record: Record) -> list[Record]:
    """Every answer of a conversation as a record of its own: what stands before it, and it."""
    whole = [*record.prompt, {"role": "assistant", "content": record.responses[0]}]
    return [Record(whole[:i], [turn["content"]]) for i, turn in enumerate(whole) if i and turn["role"] == "assistant"]


# ---- which tokens

def test_a_chat_by_hand(templates):
    """Each answer is learned with its end token; questions, headers and the line feed after an end are context."""
    template = templates["chatml"]
    one = in_one_row(template)
    assert text(template, one.prompt) == ("<bos><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n"
                                          "how was the food?<|im_end|>\n<|im_start|>assistant\n")
    parts, before = [], None
    for token, target in zip(one.responses[0], one.targets[0], strict=True):
        assert target in (None, token)
        if (target is None) != before:
            before = target is None
            parts.append([])
        parts[-1].append(token)
    assert [text(template, part) for part in parts] == [
        "the food was good.<|im_end|>", "\n<|im_start|>user\nand the staff?<|im_end|>\n<|im_start|>assistant\n",
        "slow, but kind<|im_end|>", "\n<|im_start|>user\nthe room?<|im_end|>\n<|im_start|>assistant\n",
        "small and clean.<|im_end|>"]
    assert one.finished == [True] and not one.truncated


def test_a_transcript_by_hand(templates):
    """The transcript form has no end token between turns: it is learned where an answer ends, and is not in the row."""
    template = templates["transcript"]
    one = in_one_row(template, Record([TALK[1], TALK[2], TALK[3]], ["slow"]))
    assert text(template, one.prompt + one.responses[0]) == (
        "<bos>\n\nHuman: how was the food?\n\nAssistant: the food was good."
        "\n\nHuman: and the staff?\n\nAssistant: slow<eos>")
    assert text(template, learned(one)) == " the food was good.<eos> slow<eos>"
    place = one.targets[0].index(template.turn_end)  # the state of the full stop predicts the end
    assert text(template, one.responses[0][place - 1:place + 2]) == ".\n\n" and one.targets[0][place + 1] is None


@forms
def test_the_row_is_the_one_that_the_last_turn_alone_has(templates, form):
    template = templates[form]
    one, last = in_one_row(template), template.example(CONVERSATION, 500, 499)
    assert one.prompt + one.responses[0] == last.prompt + last.responses[0] and one.key != last.key
    assert (one.finished, one.truncated, one.scores, one.record, one.length) == (
        last.finished, last.truncated, last.scores, last.record, last.length)
    assert last.targets is None and counts([last])["tokens"] == len(last.responses[0])
    assert counts([one]) == {"rows": 1, "responses": 1, "tokens": len(learned(one))}


words = st.sampled_from(["the food", "was good", ".", "", "\n", "a b", "Human", "é 漢", " x", "1. one\n2. two"])
turn = st.lists(words, min_size=1, max_size=4).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([*FORMS, "brackets", "names", "lines"]))
def test_the_learned_tokens_are_those_of_the_answers_alone(tokenizer, data, form):
    template = Template(speaking(tokenizer, {**FORMS, **LED}[form]))
    system = data.draw(st.booleans())
    told = [{"role": "system", "content": data.draw(turn)}] if system else []
    for _ in range(data.draw(st.integers(1, 3))):
        told += [{"role": "user", "content": data.draw(turn)}, {"role": "assistant", "content": data.draw(turn)}]
    record = Record(told[:-1], [told[-1]["content"] or "x"])
    single = []
    for part in expanded(record):
        answer = part.responses[0]
        if part.prompt != record.prompt and not answer.strip():
            continue  # an answer without text is no demonstration
        if part.prompt != record.prompt and form == "headers":
            answer = answer.strip()  # as this template writes turns that were given
        # no space is set before these
        if part.prompt != record.prompt and form == "transcript" and answer[0].isspace():
            single.append([*template.tokenizer(answer, add_special_tokens=False).input_ids, template.turn_end])
        else:
            single.append(template.example(Record(part.prompt, [answer]), 1000, 999).responses[0])
    one = in_one_row(template, record, 2000)
    if len(single) == 1:
        assert one.targets is None and one.responses == single
    else:
        assert learned(one) == sum(single, [])


@pytest.mark.parametrize("form, lead, row", [
    ("trimmed", " ",
     "<bos>[INST] <<be brief>>\nhow was the food? [/INST]( the food was good. )<eos><bos>[INST] and the "
                     "staff? [/INST]( slow, but kind )<eos><bos>[INST] the room? [/INST]( small and clean.<eos>)"),
    ("brackets", " ", "<bos>[INST] be brief[/INST][INST] how was the food?[/INST]( the food was good.<eos>)"
                      "[INST] and the staff?[/INST]( slow, but kind<eos>)[INST] the room?[/INST]( small and "
                      "clean.<eos>)"),
    ("names", " ", "<bos>be brief\n\nUSER: how was the food? ASSISTANT:( the food was good.<eos>)USER: and the staff? "
                   "ASSISTANT:( slow, but kind<eos>)USER: the room? ASSISTANT:( small and clean.<eos>)"),
    ("lines", "\n", "<bos><|system|>\nbe brief<eos>\n<|user|>\nhow was the food?<eos>\n<|assistant|>"
                    "(\nthe food was good.<eos>)\n<|user|>\nand the staff?<eos>\n<|assistant|>(\nslow, but "
                    "kind<eos>)\n<|user|>\nthe room?<eos>\n"
                    "<|assistant|>(\nsmall and clean.<eos>)"),
])
def test_white_space_that_a_template_sets_before_an_answer_is_learned_with_it(tokenizer, form, lead, row):
    """What is learned stands in ( ). Before an end token no white space is learned, the end token stands for it."""
    template = Template(speaking(tokenizer, LED[form]))
    one, last = in_one_row(template), template.example(CONVERSATION, 500, 499)
    marked = ""
    for token, target in zip(one.prompt + one.responses[0], [None] * len(one.prompt) + one.targets[0], strict=True):
        marked += f"({text(template, [token])})" if target is not None else text(template, [token])
    assert template.lead == lead and marked.replace(")(", "") == row
    assert text(template, learned(one)) == "".join(
        f"{lead}{answer}<eos>" for answer in ("the food was good.", "slow, but kind", "small and clean."))
    assert one.prompt + one.responses[0] == last.prompt + last.responses[0] and last.prompt == template.prompt_ids(TALK)
    assert text(template, last.responses[0]) == f"{lead}small and clean.<eos>" and last.targets is None
    given = [*TALK, {"role": "assistant", "content": "small and clean."}]
    whole = template.tokenizer.apply_chat_template(given, tokenize=False)
    bos = "" if whole.startswith("<bos>") else "<bos>"  # BOS stands before the text where the template writes none
    assert (bos + whole).startswith(row.replace("(", "").replace(")", "").removesuffix("<eos>"))


@pytest.mark.parametrize("form, response",
                         [("names", "good"), ("names", " good"), ("lines", "\ngood"), ("lines", "good\n"),
                                            ("chatml", " good"), ("transcript", "good"), ("transcript", " good")])
def test_the_white_space_is_taken_off_what_a_model_says(tokenizer, form, response):
    template = Template(speaking(tokenizer, {**FORMS, **LED}[form]))
    said = template.decode(template.example(Record(TALK, [response]), 500, 499).responses[0])
    assert said == template.lead + response == template.response_text(TALK, response)
    assert template.clean_response(TALK, said) == response
    assert template.clean_response(TALK, "good") == "good", "a model that leaves it out has answered as well"
    assert template.clean_response("Q:", " good") == template.response_text("Q:", " good") == " good"


@pytest.mark.parametrize("form", ["chatml", "headers"])
def test_transformers_marks_the_same_tokens(templates, form):
    """A template with {% generation %} marks tells transformers what the assistant wrote."""
    template = templates[form]
    whole = [*TALK, {"role": "assistant", "content": CONVERSATION.responses[0]}]
    theirs = template.tokenizer.apply_chat_template(whole, return_assistant_tokens_mask=True, return_dict=True)
    one = in_one_row(template)
    ids, marks = one.prompt + one.responses[0], [0] * len(one.prompt) + [int(t is not None) for t in one.targets[0]]
    bos = 1 if form == "chatml" else 0  # where the template writes none, it stands before the text all the same
    assert theirs["input_ids"][:len(ids) - bos] == ids[bos:]
    assert theirs["assistant_masks"] == marks[bos:] + [0] * (len(theirs["input_ids"]) - len(ids) + bos)
    assert sum(marks) == len(learned(one)) > 15


def test_what_is_no_answer_is_context(templates):
    """An answer without text has nothing to learn, one that opens the conversation no question."""
    template = templates["transcript"]
    opening, empty = {"role": "assistant", "content": "welcome"}, {"role": "assistant", "content": " "}
    assert in_one_row(template, Record([opening, TALK[1]], ["good"])).targets is None
    one = in_one_row(template, Record([opening, TALK[1], empty, TALK[3], TALK[4], TALK[5]], ["small"]))
    assert text(template, learned(one)) == " slow, but kind<eos> small<eos>"
    assert in_one_row(template, Record("no messages", ["plain"])).targets is None
    bare = in_one_row(template, Record(TALK, []))
    assert (bare.prompt, bare.responses, bare.targets) == (template.prompt_ids(TALK), [], None)


def test_a_transcript_keeps_its_white_space(templates):
    """Some of HH's turns begin with more than one space: the row is the text that was read."""
    template = templates["transcript"]
    written = "\n\nHuman: hi\n\nAssistant:  well\n\nHuman: so?\n\nAssistant: good"
    messages, response, _ = parse_transcript(written)
    one = in_one_row(template, Record(messages, [response]))
    assert text(template, one.prompt + one.responses[0]) == "<bos>" + written + "<eos>"
    assert text(template, learned(one)) == "  well<eos> good<eos>"


def test_white_space_that_a_template_takes_off_is_not_learned(templates):
    record = Record([TALK[1], {"role": "assistant", "content": " good \n"}, TALK[3]], ["slow"])
    for form, written in {"headers": "good<|eot|>slow<|eot|>", "chatml": " good \n<|im_end|>slow<|im_end|>"}.items():
        assert text(templates[form], learned(in_one_row(templates[form], record))) == written


def test_an_end_token_after_white_space(tokenizer):
    """A model ends its answer at once, as it is taught by the last turn; the row keeps the space of the template."""
    template = Template(speaking(tokenizer, CHATML.replace("<|im_end|>{% endgen", " <|im_end|>{% endgen")))
    one = in_one_row(template, Record(TALK[1:4], ["slow"]))
    assert text(template, learned(one)) == "the food was good.<|im_end|>slow<|im_end|>"
    assert "good. <|im_end|>\n" in text(template, one.responses[0])


@pytest.mark.parametrize("chat", [
    NO_THOUGHTS,  # earlier reasoning is left out of later prompts
    CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n{% endif %}"),  # written once only
    CHATML.replace("<|im_start|>{{", "<|im_start|>{{ loop.revindex }} {{")])  # what was before changes
def test_a_template_that_changes_earlier_turns_is_refused(tokenizer, chat):
    template = Template(speaking(tokenizer, chat))
    talk = [TALK[1], {"role": "assistant", "content": "<think>was it?</think>yes"}, TALK[3]]
    told = "^model.chat_template: found .*; expected .*; fix: algorithm.turns=last, or model.chat_template"
    with pytest.raises(DataError, match=told):
        in_one_row(template, Record(talk, ["slow"]))
    assert template.example(Record(talk, ["slow"]), 500, 499).targets is None, "the last turn alone can be learned"


def test_reasoning_that_was_never_there_is_no_reason_to_refuse(tokenizer, templates):
    stripping = Template(speaking(tokenizer, NO_THOUGHTS))
    assert in_one_row(stripping) == in_one_row(templates["chatml"])


def test_a_template_that_writes_nothing_after_an_answer_is_refused(tokenizer):
    template = Template(speaking(tokenizer, "{% for m in messages %}{{ m['content'] }}{% endfor %}"))
    with pytest.raises(DataError, match="algorithm.turns=last"):
        in_one_row(template, Record([TALK[1], TALK[2], TALK[4]], ["slow"]))


def test_other_tokens_in_a_later_prompt_are_told_of_once(tokenizer, templates, caplog):
    """A full stop and two line feeds may be one token, as in Llama 3's tokenizer: in a prompt they are, here never."""
    for template in templates.values():
        in_one_row(template)
    assert not caplog.records
    tokenizer = speaking(tokenizer, None)
    tokenizer.add_tokens([".\n\n"])
    template = Template(tokenizer)
    for _ in range(2):
        one = in_one_row(template)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and "algorithm.turns=all" in caplog.text
    assert text(template, learned(one)) == " the food was good.<eos> slow, but kind<eos> small and clean.<eos>"


# ---- truncation: the rules of the last turn alone

def test_cutting_keeps_the_last_answers(templates):
    """20 tokens of the prompt stay: the first answer is gone, of the second the beginning; the third is learned."""
    template, seen = templates["transcript"], set()
    most = in_one_row(template).length - 1
    last = len(template.example(CONVERSATION, 500, 499).responses[0])
    for room in range(1, most + 1 - last):
        left = Record(template.shortened(TALK, room, "end"), CONVERSATION.responses)  # of the turns
        seen.add(len(left.prompt))
        whole = in_one_row(template, left)
        ids = whole.prompt + whole.responses[0]
        targets = [None] * len(whole.prompt) + (whole.targets or whole.responses)[0]
        ends = [place for place, token in enumerate(targets) if token == template.turn_end]
        one, same = in_one_row(template, most=most, prompt=room), template.example(CONVERSATION, most, room)
        assert one.prompt + one.responses[0] == same.prompt + same.responses[0] and one.truncated
        assert one.finished == [True] and one.turns_left_out == len(TALK) - len(left.prompt)
        first = max(0, len(ids) - last - (room - 1))  # of the tokens after BOS that stay
        begins = [next(p for p in range(end, 0, -1) if targets[p - 1] is None) for end in ends]
        answers = [targets[begin:end + 1] for begin, end in zip(begins, ends) if begin > first or end == ends[-1]]
        assert (learned(one) if one.targets else one.responses[0]) == sum(answers, []), room
    assert seen == {2, 4}, "without one middle turn, a question with its answer, or without both"
    assert not in_one_row(template, most=most + 1, prompt=20).truncated


def test_cutting_keeps_the_first_answers(templates):
    template = templates["chatml"]
    whole = in_one_row(template)
    targets = [None] * len(whole.prompt) + whole.targets[0]
    last = len(template.example(CONVERSATION, 500, 499).responses[0])
    for room in range(1, len(targets) - last):
        one = in_one_row(template, most=len(targets) - 1, prompt=room, keep="start")
        expected = [token for token in targets[:room] if token is not None] + targets[-last:]
        assert (learned(one) if one.targets else one.responses[0]) == expected and one.truncated
        assert len(one.prompt) + len(one.responses[0]) == room + last


def test_a_last_answer_that_is_too_long_has_no_end(templates):
    template = templates["chatml"]
    record = Record(TALK[1:4], ["the staff was slow " * 30])
    one = in_one_row(template, record, most=100, prompt=60)
    assert one.finished == [False] and one.truncated and one.length <= 100
    assert text(template, learned(one)).startswith("the food was good.<|im_end|>the staff was slow the")
    assert learned(one).count(template.turn_end) == 1


@settings(max_examples=80, deadline=None)
@given(most=st.integers(2, 90), data=st.data(), keep=st.sampled_from(["end", "start"]),
       form=st.sampled_from(list(FORMS)))
def test_a_cut_row_is_the_last_turns_own_and_learns_nothing_else(tokenizer, most, data, keep, form):
    template = Template(speaking(tokenizer, FORMS[form]))
    room = data.draw(st.integers(1, most - 1))
    one, same = in_one_row(template, most=most, prompt=room,
                           keep=keep), template.example(CONVERSATION, most, room, keep)
    assert one.prompt and one.prompt + one.responses[0] == same.prompt + same.responses[0]
    assert (one.truncated, one.finished) == (same.truncated, same.finished) and one.length <= most
    whole = learned(in_one_row(template))
    rest = iter(whole)
    assert all(token in rest for token in (learned(one) if one.targets else one.responses[0])), "a subsequence"


# ---- rows

def test_targets_in_a_batch_by_hand():
    chat = Example([11, 12], [[21, 31, 32, 22]], [True], None, "chat", targets=[[21, 99, None, 22]])
    plain = Example([13], [[41, 42]], [False], None, "plain")
    batch = collate([chat, plain])
    assert batch.input_ids.tolist() == [[11, 12, 21, 31, 32, 22], [13, 41, 42, 0, 0, 0]]
    assert batch.mask.tolist() == [[[True, True, False, True]], [[True, True, False, False]]]
    assert batch.labels.tolist() == [[[21, 99, 0, 22]], [[41, 42, 0, 0]]]  # 99 ends an answer; the row goes on with 31
    assert batch.source.tolist() == [[[1, 2, 0, 4]], [[6, 7, 0, 0]]]
    assert batch.last.tolist() == [[5], [8]] and batch.simple
    assert counts([chat, plain]) == {"rows": 2, "responses": 2, "tokens": 5}
    packed = collate([chat, plain], pack_to=16)
    assert packed.source.tolist() == [[[1, 2, 0, 4]], [[6, 7, 0, 0]]] and packed.last.tolist() == [[5], [8]]


def test_a_key_holds_the_targets_where_there_are_any():
    def key(responses, targets=None):
        return Example([1], responses, [True] * len(responses), None, "a", targets=targets).key

    both = [[2, 3], [2, 3]]
    assert len({key(both[:1]), key(both), key(both[:1], [[2, 3]]), key(both[:1], [[None, 3]]),
                key(both[:1], [[2, None]]),
                key(both[:1], [[2, 4]])}) == 6
    numbers = b"".join(number.to_bytes(4, "little") for number in (1, 1, 2, 2, 3))
    assert key(both[:1]) == hashlib.blake2b(numbers, digest_size=16).hexdigest(), "as kept stages have it"


def loss_and_gradients(models: Models, folder, examples: list[Example], packing: bool = False,
                       micro_batch_size: int = 16):
    """(Σ −log π, tokens, its gradients) over all rows."""
    algorithm, context = SFT(packing=packing), make_context(models, folder, examples, micro_batch_size=micro_batch_size)
    experience, indices = algorithm.experience(context, examples), list(range(len(examples)))
    tokens = experience.counts(indices)["tokens"]
    values = run_losses(algorithm, context, experience, indices, train=True)
    gradients = {key: parameter.grad.clone() * tokens for key, parameter in models.policy.parameters().items()}
    for parameter in models.policy.parameters().values():
        parameter.grad = None
    return values["loss/policy"] * tokens, tokens, gradients


OTHERS = [Record([TALK[1], TALK[2], TALK[3]], ["slow"]), Record(TALK[:2], ["good"]),
          Record(TALK[:4], ["kind, and quick"])]


@forms
@pytest.mark.parametrize("packing, attention, rows, lora", [
    (False, "eager", "auto", Lora(r=4, alpha=8)), (True, "sdpa", "auto", Lora(r=4, alpha=8)),
    (True, "eager", "auto", None),
    (False, "sdpa", "plain", None)], ids=["rows", "packed-sdpa", "packed-full", "plain"])
def test_one_row_is_the_sum_of_its_answers(tokenizer, tmp_path, form, packing, attention, rows, lora):
    """Likelihood, token count and gradients: conversations with every turn learned, and each answer in its own row."""
    models = chat_models(tokenizer, FORMS[form], tmp_path, attention=attention, rows=rows, lora=lora)
    models.add_role("policy", trainable=True, seed=0)
    randomize(models, "policy")
    records = [CONVERSATION, *OTHERS]
    alone = [models.tokenize(part) for record in records for part in expanded(record)]
    together = [models.tokenize(record, every_turn=True) for record in records]
    assert len(alone) == 8 and len(together) == 4 and not any(example.truncated for example in alone + together)
    if packing:
        assert len(models.collate(together, pack=True).input_ids) < 4
    nll, tokens, gradients = loss_and_gradients(models, tmp_path, alone)
    found, learned_tokens, found_gradients = loss_and_gradients(models, tmp_path, together, packing, micro_batch_size=4)
    assert learned_tokens == tokens and found == pytest.approx(nll, rel=1e-5)
    assert any(gradient.any() for gradient in gradients.values())
    for key, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[key], gradient, atol=1e-4, rtol=1e-4)


# ---- settings

def test_settings_are_refused():
    with pytest.raises(ConfigError, match="^algorithm.turns: found 'first'; expected last or all$"):
        SFT(turns="first")
    with pytest.raises(ConfigError, match="^algorithm.train_on_prompt: found true with algorithm.turns=all; .*; fix: "):
        SFT(turns="all", train_on_prompt=True)
    assert SFT(turns="all").every_turn and not SFT().every_turn and not DPO().every_turn


def conversations(*records: Record) -> DataSets:
    prefer = Records.from_list([Record(TALK, ["small", f"big {i}"], [1.0, 0.0]) for i in range(4)])
    shown, none = Records.from_list(records or [CONVERSATION, *OTHERS]), Records.from_list([])
    asked = Records.from_list([Record(TALK[1:2], ["good"])])
    return DataSets(preferences=prefer, demonstrations=shown, prompts=none, evaluation=asked, heldout=none, tuning=none,
                    report=LoadReport())


def chat_bench(folder, chat: str | bytes | None = None, data: DataSets | None = None, **trainer) -> Bench:
    path = None
    if chat is not None:
        path = folder / "chat.jinja"
        path.write_bytes(chat if isinstance(chat, bytes) else chat.encode())
    model = dataclasses.replace(MODEL, max_length=200, max_prompt_length=150, chat_template=path and str(path))
    return Bench(model=model, trainer=dataclasses.replace(TRAINER, **trainer), eval=EVAL, data=data or conversations(),
                 seed=0, store=Store(folder / "stages"))


ROUND = ("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>{% endfor %}"
         "{% if add_generation_prompt %}[assistant]{% endif %}")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + ROUND
HERE = "^model.chat_template: found .*chat.jinja"


@pytest.mark.parametrize("chat, kind, told", [
    ("a\n{% for m in messages %}", ConfigError,
     r"^model.chat_template: found a syntax error in line 2 of .*chat.jinja \(.*\); expected .*; fix: "),
    (b"\xff\xfe{{ messages }}", ConfigError, f"{HERE}, which cannot be read .*; expected .*UTF-8; fix: "),
    (ROUND.replace("{{ m['content'] }}", "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"), ConfigError,
     "^model.chat_template: found a template that leaves out the assistant's turn; expected .*; fix: "),
    ("{{ raise_exception('never') }}", ConfigError, f"{HERE}, which takes no question .*never.*; fix: "),
    ("{{ 1 + 'a' }}", ConfigError, f"{HERE}, which takes no question .*; fix: "),
    (NO_SYSTEM, DataError,
     r"^model.chat_template: found the turns \['system', 'user'.*chat.jinja refuses \(no system here\); expected .*; "
     r"fix: "),
    (ROUND.replace("[assistant]", "[assistant]<think></think>"), DataError,
     "^model.chat_template: found .* otherwise in a later prompt .*; fix: algorithm.turns=last")],
    ids=["syntax", "bytes", "drops-the-answer", "refuses-all", "wrong-types", "refuses-a-role", "inconsistent"])
def test_what_a_chat_template_cannot_is_told_before_weights_load(tmp_path, chat, kind, told):
    bench = chat_bench(tmp_path, chat)
    with pytest.raises(kind, match=told):
        bench.check(SFT(turns="all"))
    assert "models" not in vars(bench)


def test_a_later_stages_turns_are_told_of_as_well(tmp_path):
    """The demonstrations have no system turn; the pairs, and what is evaluated, may."""
    data = conversations(Record(TALK[1:2], ["good"]))
    chat_bench(tmp_path, NO_SYSTEM, data).check(SFT())
    with pytest.raises(DataError, match="no system here"):
        chat_bench(tmp_path, NO_SYSTEM, data).check(DPO())
    data.evaluation = Records.from_list([Record(TALK[:2], ["good"])])
    with pytest.raises(DataError, match="no system here"):
        chat_bench(tmp_path, NO_SYSTEM, data).check(SFT())


def test_text_that_cannot_be_a_turn_names_its_place(templates):
    template = templates["chatml"]
    place = {"source": "talks.jsonl", "line": 7}
    with pytest.raises(DataError,
                       match=r"^talks.jsonl:7: responses: found the end token '<\|im_end\|>' inside the text 'a"):
        template.example(Record(TALK, ["a<|im_end|>"], None, place), 500, 499)
    with pytest.raises(DataError, match="^responses: found the end token"):
        template.example(Record(TALK, ["a<|im_end|>"]), 500, 499)
    earlier = Record([TALK[1], {"role": "assistant", "content": "b<|im_end|>b"}, TALK[3]], ["slow"], None, place)
    with pytest.raises(DataError, match="^talks.jsonl:7: .*inside the text 'b<"):
        in_one_row(template, earlier)


# ---- whole stages

@pytest.mark.parametrize("turns", ["last", "all"])
def test_a_stage_learns_the_turns_it_is_told_to(tmp_path, turns):
    """A step that hardly moves: both losses are the token mean, at the start, of the answers that are to be learned."""
    data = conversations()
    data.evaluation = data.demonstrations
    bench = chat_bench(tmp_path, data=data, evaluate_every=1)
    algorithm, recipe = SFT(turns=turns), Recipe(lr=1e-9, batch_size=4, steps=1)
    folder = bench.train(algorithm, recipe)
    models = chat_bench(tmp_path).models
    records = list(bench.data.demonstrations)
    parts = [part for record in records for part in (expanded(record) if turns == "all" else [record])]
    batch = models.collate([models.tokenize(part) for part in parts])
    with torch.no_grad():
        mean = -models.role("base").token_logprobs(batch).sum() / batch.mask.sum()
    first, = lines(folder)
    assert (first["loss/policy"], first["eval/loss/policy"]) == pytest.approx((mean.item(), mean.item()), rel=1e-4)
    other = SFT(turns="last" if turns == "all" else "all")
    assert bench.train(SFT(turns=turns), recipe) == folder != bench.train(other, recipe)


def test_conversations_with_a_system_turn_in_pairs(tokenizer, tmp_path):
    """DPO over a Jinja file: both responses follow one prompt, the rendered conversation; the first loss is ln 2."""
    models = two_roles(chat_models(tokenizer, HEADERS, tmp_path))
    records = list(pairs(conversations().preferences))
    examples = [models.tokenize(record) for record in records]
    prompt = models.template.tokenizer.apply_chat_template(TALK, add_generation_prompt=True, tokenize=False)
    assert prompt.startswith("<bos><|header|>system<|/header|>\n\nbe brief<|eot|>") and prompt.count("<|eot|>") == 6
    plain = collate(examples, "plain")
    for index, example in enumerate(examples):
        assert text(models.template, example.prompt) == prompt
        assert [text(models.template, ids) for ids in example.responses] == ["small<|eot|>", f"big {index}<|eot|>"]
        chosen, rejected = plain.input_ids[2 * index:2 * index + 2, :len(example.prompt)].tolist()
        assert chosen == rejected == example.prompt
    batch = models.collate(examples)
    assert len(batch.input_ids) == len(examples) and batch.segment.max() == 2  # one row, one prompt, two responses
    term = DPO().loss(models, batch).terms["policy"]
    assert term.sum.item() / len(examples) == pytest.approx(math.log(2), abs=1e-5)
    fast, slow = models.policy.response_logprobs(batch), models.policy.response_logprobs(plain)
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-5)


# ---- parity

@pytest.mark.slow
@pytest.mark.parametrize("form", ["chatml", "headers"])
def test_trl_learns_the_same_from_the_assistants_turns(tokenizer, tmp_path, form):
    """TRL masks by the template's {% generation %} marks; twenty steps have its losses and gradient norms."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from algorithms.common.training.loop import fit
    from trl_setup import BATCH, SEED, arguments, compare, ordered, recipe, train_theirs

    models = chat_models(tokenizer, FORMS[form], tmp_path, lora=None)
    theirs = copy.deepcopy(models.roles.module).requires_grad_(True)
    models.add_role("policy", trainable=True, seed=0)
    records = [Record(TALK[start:end], [f"{answer} {start} {end}"]) for answer in ("small and clean.", "slow")
               for start in (0, 1) for end in (2, 4, 6)]
    bos = [] if form == "headers" else [models.template.tokenizer.bos_token_id]
    examples = [models.tokenize(record, every_turn=True) for record in records]
    settings = recipe("linear", 0.0, 1e-3)
    context = make_context(models, tmp_path / "ours", examples, settings, SEED, micro_batch_size=BATCH)
    fit(SFT(turns="all"), context)

    chat = FORMS[form] if form == "headers" else "{{ bos_token }}" + FORMS[form]  # BOS as we have it before the text
    order = ordered(examples, len(examples))
    rows = Dataset.from_list([{"messages": [*records[i].prompt,
                                            {"role": "assistant", "content": records[i].responses[0]}]}
                              for i in order])
    losses, norms, trainer = train_theirs(
        SFTTrainer, 1, model=theirs, train_dataset=rows, processing_class=speaking(tokenizer, chat),
        args=arguments(SFTConfig, tmp_path / "theirs", settings, 1, assistant_only_loss=True))
    for i, row in zip(order, trainer.train_dataset):  # what TRL has after our last token is not learned
        ids = examples[i].prompt + examples[i].responses[0]
        assert row["input_ids"][:len(ids)] == ids and ids[:1] == (bos or [models.template.tokenizer.bos_token_id])
    compare(f"SFT on every turn, {form}", lines(context.target), losses, norms)


# ---- transcripts

@given(st.lists(st.tuples(st.sampled_from(list(MARKS)), st.text("a b\n\t{}'\u3000", max_size=4)), max_size=4))
def test_the_form_of_transcripts_as_a_chat_template_is_the_same(tokenizer, turns):
    messages = [{"role": role, "content": content} for role, content in turns]
    served = speaking(tokenizer, TRANSCRIPT)
    assert served.apply_chat_template([messages], add_generation_prompt=True, tokenize=False) == [
        render_transcript(messages)]
