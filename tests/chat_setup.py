"""What the tests of conversations share: chat templates, one conversation, its row and what of it is learned."""

import copy

from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example, Template

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>", "<|eot|>"]
CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}"
          "{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}"
          "{{ '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
HEADERS = ("{{ bos_token }}{% for m in messages %}<|header|>{{ m['role'] }}<|/header|>\n\n"
           "{% if m['role'] == 'assistant' %}"
           "{% generation %}{{ m['content'] | trim }}<|eot|>{% endgeneration %}{% else %}"
           "{{ m['content'] | trim }}<|eot|>"
           "{% endif %}{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}")
# Templates that write white space before an answer, which is not in the generation prompt.
TRIMMED = ("{% for m in messages %}{% if m['role'] == 'system' %}{% elif m['role'] == 'user' %}{{ bos_token }}[INST] "
           "{% if loop.previtem is defined and loop.previtem['role'] == 'system' %}<<{{ loop.previtem['content'] }}>>\n"
           "{% endif %}{{ m['content'] }} [/INST]{% else %}{{ ' ' }}{{ m['content'] | trim }} {{ eos_token }}"
           "{% endif %}"
           "{% endfor %}")
BRACKETS = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
            "{{ ' ' + m['content'] + eos_token }}"
            "{% else %}[INST] {{ m['content'] }}[/INST]{% endif %}{% endfor %}")
NAMES = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
         "{% elif m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}ASSISTANT: {{ m['content'] }}{{ eos_token }}"
         "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}")
LINES = ("{% for m in messages %}<|{{ m['role'] }}|>{{ '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
         "{% if add_generation_prompt %}<|assistant|>{% endif %}")
LED = {"trimmed": TRIMMED, "brackets": BRACKETS, "names": NAMES, "lines": LINES}
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how was the food?"},
        {"role": "assistant", "content": "the food was good."}, {"role": "user", "content": "and the staff?"},
        {"role": "assistant", "content": "slow, but kind"}, {"role": "user", "content": "the room?"}]
CONVERSATION = Record(TALK, ["small and clean."])


def speaking(tokenizer, chat: str | None):
    """A copy of the lab's tokenizer with the marks of chats, and a chat template."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS})
    tokenizer.chat_template = chat
    return tokenizer


def in_one_row(template: Template, record: Record = CONVERSATION, most: int = 500, **options) -> Example:
    return template.example(record, most, options.pop("prompt", most - 1), every_turn=True, **options)


def learned(example: Example) -> list[int]:
    return [token for token in example.targets[0] if token is not None]


def text(template: Template, ids: list[int]) -> str:
    return template.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
