"""A conversation that is too long loses its middle turns first: the system's and the user's last one stay whole."""

from types import SimpleNamespace

import pytest

from algorithms.common.algorithm import Context
from algorithms.common.data.middle_turns import without_middle
from algorithms.common.data.records import Record
from algorithms.common.data.template import Template
from algorithms.common.models.model import ModelConfig, Models
from chat_setup import CHATML, HEADERS, LED, TALK, in_one_row, speaking

STRICT = ("{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% set rest = messages[1:] %}{% else %}"
          "{% set rest = messages %}{% endif %}{% for m in rest %}"
          "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}"
          "{% endif %}[{{ m['role'] }}] {{ m['content'] }}{{ eos_token }}{% endfor %}"
          "{% if add_generation_prompt %}[assistant] {% endif %}")
FORMS = {"transcript": None, "chatml": CHATML, "headers": HEADERS, "strict": STRICT, **LED}


def turns(roles: str) -> list[dict]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[role], "content": str(place)} for place, role in enumerate(roles)]


@pytest.mark.parametrize("roles, most, kept", [
    ("suauau", 6, "012345"), ("suauau", 5, "0345"), ("suauau", 4, "0345"), ("suauau", 3, "05"), ("suauau", 0, "05"),
    ("uauau", 4, "234"), ("uauau", 1, "4"), ("su", 0, "01"), ("u", 0, "0"), ("s", 0, "0"),
    ("suaua", 4, "034"),   # an answer after the user's last turn, which is gone on with, stays
    ("suatau", 4, "05"), ("auau", 3, "123"), ("ssuau", 3, "04"), ("", 0, "")])
def test_the_oldest_turns_between_the_system_and_the_users_last_go(roles, most, kept):
    left = without_middle(turns(roles), lambda shorter: len(shorter) <= most)
    assert "".join(turn["content"] for turn in left) == kept


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_conversation_is_the_shorter_ones_own_tokens(tokenizer, form):
    """At every limit: as many turns as fit, and each template, one that refuses two users in a row too, takes them."""
    template = Template(speaking(tokenizer, FORMS[form]))
    record, whole = Record(TALK, ["small and clean."]), template.prompt_ids(TALK)
    shorter = {left: [TALK[0], *TALK[1 + left:]] for left in (0, 2, 4)}
    sizes = {left: len(template.prompt_ids(messages)) for left, messages in shorter.items()}
    answer = len(template.example(record, 500, 499).responses[0])
    assert sizes[0] > sizes[2] > sizes[4]
    for room in range(1, len(whole)):
        one = template.example(record, len(whole) + answer - 1, room)
        left = next((left for left in (2, 4) if sizes[left] <= room), 4)
        own = template.prompt_ids(shorter[left])
        assert (one.turns_left_out, one.prompt_cut, one.truncated) == (left, sizes[4] > room, True)
        assert one.prompt == (template.cut(own, room, "end") if one.prompt_cut else own) and one.finished == [True]
    start = template.example(record, len(whole) + answer - 1, len(whole) - 1, keep="start")
    assert start.prompt == whole[:-1] and start.prompt_cut and not start.turns_left_out


def test_earlier_answers_that_were_left_out_are_not_learned(tokenizer):
    template = Template(speaking(tokenizer, CHATML))
    left = Record([TALK[0], *TALK[3:]], ["small and clean."])
    own = in_one_row(template, left)
    one = in_one_row(template, most=own.length, prompt=own.length - 1)
    assert (one.prompt, one.responses, one.targets, one.turns_left_out) == (own.prompt, own.responses, own.targets, 2)
    shown = template.decode([token for token in one.targets[0] if token is not None])
    assert "slow, but kind" in shown and "the food was good" not in shown


def test_a_prompt_to_answer_keeps_them_too(tokenizer):
    """Also where it fits as a record, and is too long only beside the new tokens."""
    models = object.__new__(Models)
    models.template = template = Template(speaking(tokenizer, CHATML))
    whole, short = template.prompt_ids(TALK), template.prompt_ids([TALK[0], *TALK[3:]])
    models.config = ModelConfig("none", max_length=len(whole) + 4, max_prompt_length=len(short))
    record = Record(TALK, [])
    example = template.example(record, len(whole) + 4, len(short))
    context = SimpleNamespace(models=models, prompt=lambda key: {record.key: record}[key].prompt)
    for new_tokens, expected in ((4, whole), (5, short)):
        assert models.prompt_ids(TALK, new_tokens) == Context.to_answer(context, example, new_tokens) == expected
    text = "the food " * 90
    assert models.prompt_ids(text, 5) == template.cut(template.prompt_ids(text), len(short), "end")
