"""Reference log-probabilities: computed once, the numbers of a fresh forward pass, missed only by what changes them."""

import copy
import json

import pytest
import torch

from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example, Template
from algorithms.common.support.store import Store
from algorithms.common.training import references
from algorithms.common.training.references import KIND, StoredLogprobs, identity
from training_setup import EOS, examples, randomize, two_roles


@pytest.fixture
def models(make_models):
    return two_roles(make_models())


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def prepared(models, data: list[Example], store: Store, adapter: str | None = "sft", base: str = "tiny",
             batch_size: int = 4) -> StoredLogprobs:
    """What a new process has after preparing; ``computed`` says for how many examples it ran the model."""
    stored = StoredLogprobs(models.reference, identity(models, base, adapter), store, batch_size)
    stored.seconds = stored.prepare(data)
    return stored


def fresh(models, data: list[Example]) -> torch.Tensor:
    models.reference.stored = None
    return models.reference.response_logprobs(models.collate(data))


def test_stored_values_are_those_of_a_fresh_forward_pass(models, store):
    data = examples(9, responses=2)
    prepared(models, data, store)
    found = prepared(models, data, store).lookup(models.collate(data[3:7]))
    assert found.shape == (4, 2) and found.dtype == torch.float32
    torch.testing.assert_close(found, fresh(models, data[3:7]), atol=1e-5, rtol=1e-5)
    for row, example in enumerate(data[3:7]):  # one record alone, through transformers' own logits
        for k, response in enumerate(example.responses):
            ids = torch.tensor([example.prompt + response])
            with models.roles.use("reference"), torch.no_grad():
                logps = models.roles.module(ids).logits[0].log_softmax(-1)
            start = len(example.prompt)
            by_hand = sum(logps[start + t - 1, token] for t, token in enumerate(response))
            assert found[row, k].item() == pytest.approx(by_hand.item(), abs=1e-4)


def test_values_do_not_depend_on_dropout(make_models, store):
    from algorithms.common.models.model import Lora

    data = examples(6, responses=2)
    found = [prepared(two_roles(make_models(lora=Lora(r=4, alpha=8, dropout=p))), data, store, adapter=str(p)).lookup(
        two_roles(make_models()).collate(data)) for p in (0.0, 0.5)]
    assert torch.equal(*found)


def test_responses_of_unequal_number(models, store):
    data = [*examples(2, responses=3), *examples(2, responses=1, seed=1), Example([5], [], [], None, "bare prompt")]
    batch = models.collate(data)
    for _ in range(2):
        found = prepared(models, data, store).lookup(batch)
        assert found.shape == (5, 3) and not found[~batch.present].any()
        torch.testing.assert_close(found, fresh(models, data), atol=1e-5, rtol=1e-5)


def test_computed_once(models, store):
    data = examples(9, responses=2)
    assert prepared(models, data, store).computed == 9
    assert prepared(models, data, store).computed == 0
    assert prepared(models, data[::-1], store).computed == 0, "another order"
    assert prepared(models, data[2:5], store).computed == 0, "fewer records"
    assert prepared(models, data + data, store).computed == 0, "the same records twice"
    assert prepared(models, data, store, batch_size=1).computed == 0
    assert len(list(store.entries(KIND))) == 1


def test_only_new_records_are_computed(models, store):
    data = examples(9, responses=2)
    first = prepared(models, data[:6], store)
    later = prepared(models, data, store)
    assert (first.computed, later.computed) == (6, 3)
    torch.testing.assert_close(later.lookup(models.collate(data)), fresh(models, data), atol=1e-5, rtol=1e-5)
    assert prepared(models, data, store).computed == 0, "values of two entries are found together"


def test_a_record_is_what_its_tokens_are(models, store):
    """Scores and names do not enter; one other token does, and responses in another order are another example."""
    one = Example([5, 6], [[7, EOS], [8, EOS]], [True, True], [1.0, 0.0], "a")
    prepared(models, [one], store)
    renamed = Example([5, 6], [[7, EOS], [8, EOS]], [True, True], [0.0, 1.0], "b")
    assert prepared(models, [renamed], store).computed == 0
    for other in (Example([5, 9], one.responses, one.finished, one.scores, "a"),
                  Example([5, 6], [[7, EOS], [8]], [True, False], one.scores, "a"),
                  Example([5, 6], one.responses[::-1], one.finished, one.scores, "a"),
                  Example([5], [[6, 7, EOS], [8, EOS]], one.finished, one.scores, "a")):
        assert prepared(models, [other], store).computed == 1


def test_another_model_misses(models, make_models, store):
    data = examples(4)
    prepared(models, data, store)
    assert prepared(models, data, store, adapter="other").computed == 4
    assert prepared(models, data, store, adapter=None).computed == 4
    assert prepared(models, data, store, base="other").computed == 4
    assert prepared(two_roles(make_models(precision="bf16")), data, store).computed == 4, "in another precision"
    assert prepared(two_roles(make_models(gradient_checkpointing=True)), data, store).computed == 0


def test_max_length_matters_where_it_cuts(make_models, store):
    records = [Record("prompt " + "long " * (8 * (i == 0)), [" answer " + "word " * (12 * (i == 1)) + str(i)])
               for i in range(5)]

    def tokenized(**lengths) -> tuple:
        models = two_roles(make_models(**lengths))
        return models, [models.tokenize(record) for record in records]

    models, data = tokenized(max_length=240, max_prompt_length=200)
    assert prepared(models, data, store).computed == 5
    models, longer = tokenized(max_length=256, max_prompt_length=210)
    assert longer == data and prepared(models, longer, store).computed == 0, "no record is cut at either length"
    short = max(example.length for example in data[2:])
    models, cut = tokenized(max_length=short, max_prompt_length=short // 2)
    changed = [one.key != other.key for one, other in zip(data, cut)]
    assert changed == [True, True, False, False, False]
    assert prepared(models, cut, store).computed == 2


def test_another_template_misses(models, tokenizer, store, tmp_path):
    data = []
    for number, form in enumerate(("{{ m.content }}!", "{{ m.content }}?")):
        path = tmp_path / f"{number}.jinja"
        path.write_text("{% for m in messages %}" + form + "{% endfor %}")
        template = Template(copy.deepcopy(tokenizer), str(path))
        data.append(template.example(Record([{"role": "user", "content": "hello"}], [" there"]), 64, 32))
    assert data[0].prompt != data[1].prompt
    assert prepared(models, data[:1], store).computed == 1
    assert prepared(models, data[1:], store).computed == 1
    assert prepared(models, data, store).computed == 0


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_entry_is_built_again(models, store, damage):
    data = examples(6, responses=2)
    prepared(models, data, store)
    ((_, folder),) = store.entries(KIND)
    path = folder / "logprobs.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[-3] ^= 64
        path.write_bytes(content if damage == "flipped" else content[:-8])
    again = prepared(models, data, store)
    assert again.computed == 6
    torch.testing.assert_close(again.lookup(models.collate(data)), fresh(models, data), atol=1e-5, rtol=1e-5)
    assert prepared(models, data, store).computed == 0


def test_what_was_not_prepared_is_an_error(models, store):
    data = examples(4)
    stored = prepared(models, data[:3], store)
    with pytest.raises(KeyError, match="record-3: its reference log-probability was not prepared"):
        stored.lookup(models.collate(data))


def test_the_policy_cannot_change_what_is_stored(models, store):
    data = examples(4, responses=2)
    prepared(models, data, store)
    before = prepared(models, data, store).lookup(models.collate(data))
    randomize(models, "policy", scale=1.0)
    assert torch.equal(prepared(models, data, store).lookup(models.collate(data)), before)


def test_what_they_took_is_charged_once_more_when_they_are_found(models, store):
    data = examples(8, responses=2)
    first = prepared(models, data[:6], store)
    ((_, folder),) = store.entries(KIND)
    taken = json.loads((folder / "cost.json").read_text())["seconds"]
    assert first.seconds == pytest.approx(taken) and taken > 0
    assert prepared(models, data[:6], store).seconds == first.seconds, "found values cost what they once took"
    assert prepared(models, data[:2], store).seconds == pytest.approx(first.seconds / 3), "the share that is used"
    both = prepared(models, data, store)
    assert both.computed == 2 and both.seconds > first.seconds
    assert prepared(models, data, store).seconds == pytest.approx(both.seconds)


def test_a_pass_is_kept_piece_by_piece(models, store, monkeypatch, tmp_path):
    """A few examples at a time, so that memory does not grow with the data and a killed pass goes on where it was."""
    monkeypatch.setattr(references, "AT_ONCE", 4)
    data, asked = examples(10, responses=2), []

    def one_by_one():
        for index, example in enumerate(data):
            asked.append(index)
            if index == 8:
                raise KeyboardInterrupt
            yield example

    with pytest.raises(KeyboardInterrupt):
        prepared(models, one_by_one(), store)
    assert len(list(store.entries(KIND))) == 2
    rest = prepared(models, data, store)
    assert rest.computed == 2 and rest.seconds > 0
    whole = prepared(models, data, Store(tmp_path / "another"))
    torch.testing.assert_close(rest.lookup(models.collate(data)), whole.lookup(models.collate(data)), atol=1e-5,
                               rtol=1e-5)
