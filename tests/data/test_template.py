"""Text to tokens: BOS once, the end token inside the response, truncation in its order. Tokenizers are built here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from algorithms.common.data.records import Record, parse_transcript
from algorithms.common.data.template import Example, Template
from algorithms.common.support.errors import ConfigError, DataError

CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
BOS_CHAT = ("<s>{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
            "[{{ m['role'] }}]{{ m['content'] }}{% if m['role'] == 'assistant' %}</s>{% endif %}{% endfor %}")
CHAT = [{"role": "user", "content": "hi"}]


def characters(bos: bool = True, chat: str | None = None, **specials) -> PreTrainedTokenizerFast:
    """One token per character, "ab" merged; ``bos``: the tokenizer adds it by itself, as Llama's does."""
    vocab = {token: index for index, token in enumerate(
        ["<s>", "</s>", "<|im_start|>", "<|im_end|>", *map(chr, range(32, 127)), "\n", "ab"])}
    core = Tokenizer(models.BPE(vocab, merges=[("a", "b")]))
    core.decoder = decoders.Fuse()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    specials = {"bos_token": "<s>", "eos_token": "</s>", **specials}
    specials = {key: value for key, value in specials.items() if value is not None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=["<|im_start|>", "<|im_end|>"],
                                        **specials)
    tokenizer.chat_template = chat
    return tokenizer


def text(tokenizer, ids):
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_an_example_by_hand():
    tokenizer = characters()
    one = Template(tokenizer).example(Record("Q:", [" yes", " no"], [1.0, 0.0]), 64, 32)
    assert text(tokenizer, one.prompt) == "<s>Q:"
    assert [text(tokenizer, ids) for ids in one.responses] == [" yes</s>", " no</s>"]
    assert one.finished == [True, True] and one.scores == [1.0, 0.0] and not one.truncated
    assert one.length == 3 + 5 + 4


def test_prompt_and_response_are_tokenised_apart():
    """"a" + "b" would merge into one token across the boundary; the prompt would differ from response to response."""
    tokenizer = characters()
    assert tokenizer("ab", add_special_tokens=False).input_ids == tokenizer.convert_tokens_to_ids(["ab"])
    one = Template(tokenizer).example(Record("a", ["b", "c"]), 64, 32)
    assert text(tokenizer, one.prompt) == "<s>a" and one.responses[0] == tokenizer.convert_tokens_to_ids(["b", "</s>"])


@pytest.mark.parametrize("chat", [None, BOS_CHAT])
@pytest.mark.parametrize("bos", [True, False])
def test_bos_stands_once(bos, chat):
    tokenizer = characters(bos=bos, chat=chat)
    one = Template(tokenizer).example(Record(CHAT, ["yes", "no"]), 64, 32)
    ids = one.prompt + one.responses[0]
    expected = 1 if bos or chat else 0  # never two: the chat template writes one, and so would the tokenizer
    assert ids.count(tokenizer.bos_token_id) == expected
    assert not expected or ids[0] == tokenizer.bos_token_id


def test_end_token_of_the_turn_is_found_in_the_chat_template():
    # eos is </s>, a turn ends with <|im_end|>, as Qwen's base models have it
    tokenizer = characters(bos=False, chat=CHATML)
    template = Template(tokenizer)
    assert template.turn_end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert template.stop_ids == sorted([tokenizer.eos_token_id, template.turn_end])
    one = template.example(Record(CHAT, ["yes"]), 64, 40)
    assert text(tokenizer, one.prompt) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text(tokenizer, one.responses[0]) == "yes<|im_end|>"


def test_turn_end_after_white_space_and_none_at_all():
    spaced = "{% for m in messages %}{{ m['content'] }} \n<|im_end|>{% endfor %}"
    assert Template(characters(chat=spaced)).turn_end == characters().convert_tokens_to_ids("<|im_end|>")
    bare = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert Template(characters(chat=bare)).turn_end == characters().eos_token_id


def test_template_without_the_assistants_turn_is_refused():
    with pytest.raises(ConfigError, match="chat_template"):
        Template(characters(chat="{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}"
                                 "{% endif %}{% endfor %}"))


def test_chat_template_from_a_file(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(CHATML, encoding="utf-8")
    tokenizer = characters(bos=False, chat=BOS_CHAT)
    template = Template(tokenizer, str(path))
    assert template.prompt_text(CHAT).startswith("<|im_start|>user")


def test_what_the_chat_template_refuses_is_a_data_error():
    with pytest.raises(DataError, match="no system turn"):
        Template(characters(chat=BOS_CHAT)).prompt_ids([{"role": "system", "content": "be brief"}, *CHAT])


def test_a_chat_template_does_not_print_todays_date(caplog):
    """Llama 3's do: tokens, and all that is kept under their hash, would change overnight."""
    dated = ("{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
             "{{ date_string }}|" + BOS_CHAT)
    assert Template(characters(chat=dated)).prompt_text(CHAT).startswith("26 Jul 2024|")
    assert not caplog.records
    Template(characters(chat="{{ strftime_now('%Y') }}" + BOS_CHAT))  # nothing to set it by
    assert "today's date" in caplog.text


def test_no_end_token_is_refused():
    with pytest.raises(ConfigError, match="EOS"):
        Template(characters(eos_token=None))


def test_neither_pad_nor_bos_is_needed():
    tokenizer = characters(bos=False, bos_token=None)
    assert tokenizer.pad_token_id is None and tokenizer.bos_token_id is None
    one = Template(tokenizer).example(Record("Q", ["y"]), 64, 32)
    assert text(tokenizer, one.prompt) == "Q" and text(tokenizer, one.responses[0]) == "y</s>"


def test_an_empty_prompt_without_bos_begins_with_the_end_token():
    """A model predicts from something, and the end token says that a new document begins."""
    tokenizer = characters(bos=False, bos_token=None)
    assert Template(tokenizer).prompt_ids("") == [tokenizer.eos_token_id]
    assert Template(characters()).prompt_ids("") == [characters().bos_token_id]


def test_an_end_token_inside_a_response_is_refused():
    with pytest.raises(DataError, match="end token '</s>'"):
        Template(characters()).example(Record("Q", ["yes</s>no"]), 64, 32)
    with pytest.raises(DataError, match="im_end"):
        Template(characters(chat=CHATML)).example(Record(CHAT, ["yes<|im_end|>"]), 64, 32)


def sentence_pieces(chat: str) -> PreTrainedTokenizerFast:
    """As Llama 2's: a space is a letter, one stands before every text, "▁yes" is a word, what is unknown is bytes."""
    vocab = {token: index for index, token in enumerate(
        ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127)), "es",
         "yes",
         "▁yes"])}
    merges = [("e", "s"), ("y", "es"), ("▁", "yes")]
    core = Tokenizer(models.BPE(vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = chat
    return tokenizer


SPACED = ("{% for m in messages %}{% if m['role'] == 'user' %}<s>[I] {{ m['content'] }} [/I]{% else %}"
          "{{ ' ' + m['content'] | trim + ' </s>' }}{% endif %}{% endfor %}")
UNSPACED = SPACED.replace("{{ ' ' +", "{{").replace("' </s>'", "'</s>'")
BROKEN = ("{% for m in messages %}<|{{ m['role'] }}|>{{ '\n' + m['content'] + '</s>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}<|assistant|>{% endif %}")


@pytest.mark.parametrize("chat, tokens", [(SPACED, ["▁yes", "</s>"]), (BROKEN, ["<0x0A>", "yes", "</s>"]),
                                          # without white space of the template's, as ever
                                          (UNSPACED, ["▁yes", "</s>"])])
def test_an_answer_after_white_space_has_no_space_of_the_tokenizer_beside_it(chat, tokens):
    tokenizer = sentence_pieces(chat)
    template = Template(tokenizer)
    assert tokenizer(" yes", add_special_tokens=False).tokens() == ["▁", "▁yes"], "two spaces, tokenised apart"
    one = template.example(Record(CHAT, ["yes"]), 64, 40)
    assert tokenizer.convert_ids_to_tokens(one.responses[0]) == tokens
    assert template.clean_response(CHAT, template.decode(one.responses[0])) == "yes"
    plain = template.example(Record("Q:", [" yes"]), 64, 40).responses[0]
    assert tokenizer.convert_ids_to_tokens(plain) == ["▁", "▁yes", "</s>"], "plain text is tokenised as it is"


@pytest.mark.parametrize("chat", [SPACED, BROKEN])
def test_a_conversation_in_sentence_pieces_has_the_tokens_of_its_whole_text(chat, caplog):
    tokenizer = sentence_pieces(chat)
    talk = [*CHAT, {"role": "assistant", "content": "yes yes"}, {"role": "user", "content": "yes?"}]
    whole = tokenizer.apply_chat_template([*talk, {"role": "assistant", "content": "well, yes"}], tokenize=False)
    ids = tokenizer(whole.removeprefix("<s>")).input_ids
    template = Template(tokenizer)
    for every_turn in (False, True):
        one = template.example(Record(talk, ["well, yes"]), 200, 199, every_turn=every_turn)
        row = one.prompt + one.responses[0]
        assert row[:-1] == ids[:len(row) - 1] and row[-1] == tokenizer.eos_token_id
    answers = "".join(tokenizer.convert_ids_to_tokens([token for token in one.targets[0] if token is not None]))
    assert answers == ("▁yes▁yes</s>▁well,▁yes</s>" if chat == SPACED else "<0x0A>yes▁yes</s><0x0A>well,▁yes</s>")
    assert not caplog.records, "nor does a later prompt have other tokens"


def test_a_line_feed_that_merges_with_the_text_leaves_it_as_it_is():
    tokenizer = sentence_pieces(BROKEN)
    tokenizer.add_tokens(["\n\n"])
    one = Template(tokenizer).example(Record(CHAT, ["yes"]), 64, 40)
    assert tokenizer.convert_ids_to_tokens(one.responses[0]) == ["▁", "<0x0A>", "yes", "</s>"]


def test_transcript_form_without_a_chat_template():
    written = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: again\n\nAssistant: yes, again"
    messages, response, prompt = parse_transcript(written)
    tokenizer = characters()
    template = Template(tokenizer)
    one = template.example(Record(messages, [response]), 200, 100)
    assert text(tokenizer, one.prompt) == "<s>" + prompt
    assert text(tokenizer, one.prompt + one.responses[0]) == "<s>" + written + "</s>"
    assert template.clean_response(messages, template.decode(one.responses[0])) == response


def test_byte_fallback_covers_every_text():
    vocab = {token: index for index, token in enumerate(
        ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b"])}
    core = Tokenizer(models.BPE(vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    template = Template(tokenizer)
    one = template.example(Record("a", ["b é 漢 🎈\u2028"]), 64, 32)
    assert vocab["<unk>"] not in one.responses[0]
    assert template.decode(one.responses[0]) == "b é 漢 🎈\u2028"


def test_byte_level_tokenizer_decodes_what_it_was_given():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({token: index for index, token in enumerate([*alphabet, "<eos>"])}, merges=[]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    template = Template(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>"))
    for answer in ("I do n't , see .", " é 漢 🎈", "\r\n\t"):  # spaces before punctuation are not cleaned away
        assert template.decode(template.example(Record("Q", [answer]), 64, 32).responses[0]) == answer


# ---- truncation: the prompt to max_prompt_length, then the responses to max_length − max_prompt_length

def sizes(prompt: int, *responses: int, keep: str = "end", max_length: int = 20, max_prompt_length: int = 8):
    """Lengths counted with BOS and end token."""
    tokenizer = characters()
    record = Record("".join(chr(65 + i % 26) for i in range(prompt - 1)), ["r" * (n - 1) for n in responses])
    return tokenizer, Template(tokenizer).example(record, max_length, max_prompt_length, keep)


def test_what_fits_is_left_alone():
    _, one = sizes(12, 8, 3)  # the prompt is over max_prompt_length, but the longest row has 20 tokens
    assert len(one.prompt) == 12 and [len(r) for r in one.responses] == [8, 3] and not one.truncated


@pytest.mark.parametrize("keep, kept", [("end", "<s>FGHIJKL"), ("start", "<s>ABCDEFG")])
def test_the_prompt_is_cut_first(keep, kept):
    tokenizer, one = sizes(13, 8, 3, keep=keep)
    assert text(tokenizer, one.prompt) == kept  # 8 tokens, BOS stays
    assert [len(r) for r in one.responses] == [8, 3] and one.finished == [True, True] and one.truncated


def test_then_the_responses_and_a_cut_one_has_no_end_token():
    tokenizer, one = sizes(13, 15, 12, 13)
    assert len(one.prompt) == 8 and [len(r) for r in one.responses] == [12, 12, 12]
    assert one.finished == [False, True, False] and one.truncated
    ends = [response[-1] == tokenizer.eos_token_id for response in one.responses]
    assert ends == one.finished


def test_a_short_prompt_is_not_cut_when_a_response_is_too_long():
    _, one = sizes(4, 30, 2)
    assert len(one.prompt) == 4 and [len(r) for r in one.responses] == [12, 2] and one.finished == [False, True]


@settings(max_examples=80, deadline=None)
@given(prompt=st.integers(1, 40), responses=st.lists(st.integers(1, 40), max_size=4), data=st.data())
def test_a_row_never_exceeds_max_length(prompt, responses, data):
    max_length = data.draw(st.integers(2, 40))
    limit = data.draw(st.integers(1, max_length - 1))
    tokenizer, one = sizes(prompt, *responses, max_length=max_length, max_prompt_length=limit)
    assert all(len(one.prompt) + len(response) <= max_length for response in one.responses)
    assert one.prompt[0] == tokenizer.bos_token_id and len(one.responses) == len(responses)
    assert all(one.responses)
    assert all((r[-1] == tokenizer.eos_token_id) == f for r, f in zip(one.responses, one.finished))
    assert one.truncated == (len(one.prompt) < prompt or not all(one.finished))


# ---- identity

def test_keys_are_hashes_of_the_token_ids():
    one = Example([1, 2], [[3], [4]], [True, True], [1.0, 0.0], "a")
    assert one.key == Example([1, 2], [[3], [4]], [False, True], None, "b").key  # content, not judgement
    others = [Example(prompt, responses, [True] * len(responses), None, "a").key for prompt, responses in (
        ([1], [[2, 3], [4]]), ([1, 2], [[3, 4]]), ([1, 2], [[4], [3]]), ([1, 2, 3], [[4]]), ([1, 2], [[3]]),
        ([258], [[3], [4]]))]
    assert len({one.key, *others}) == 7  # the same tokens cut otherwise are another example
