"""The reviews lab's committed artefacts: they load offline, fit their size, and the base model speaks the grammar."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lab import grammar, make_reviews
from benchmarks.lab.gold import judge
from benchmarks.lab.make_reviews import load_base, packed, sample, train_tokenizer
from benchmarks.lab.samples import FOLDER, MAX_NEW_TOKENS


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)


def test_tokenizer_adds_bos_and_is_exact(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == 1525 and tokenizer.chat_template is None
    for review in grammar.take("evaluation", 100):
        prompt = tokenizer(review.prompt)["input_ids"]
        response = tokenizer(review.response, add_special_tokens=False)["input_ids"]
        assert prompt[0] == 1 and 1 not in response and len(response) < MAX_NEW_TOKENS
        assert tokenizer.decode(prompt[1:] + response) == review.text
        assert tokenizer.decode(response, skip_special_tokens=True) == review.response
    odd = "naïve ❤️ \u2028 日本\n\t  x"
    assert tokenizer.decode(tokenizer(odd, add_special_tokens=False)["input_ids"]) == odd


def test_prompt_and_response_split_at_a_token_border(tokenizer):
    """Tokenising the parts gives the tokens of the whole: a model never sees a border it was not pretrained on."""
    for review in grammar.take("evaluation", 100):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (review.prompt, review.response)]
        assert parts[0] + parts[1] == tokenizer(review.text, add_special_tokens=False)["input_ids"]


def test_model_loads_offline_in_bf16_and_is_small(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, local_files_only=True)
    assert model.dtype == torch.bfloat16 and model.config.tie_word_embeddings
    assert model.config.vocab_size == 1536 and model.config.max_position_embeddings == 2048
    assert sum(parameter.numel() for parameter in model.parameters()) < 1.1e6
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 5 * 2**20


def test_a_base_of_another_width_is_made_alone_in_a_folder_of_its_own(tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_reviews, "train_tokenizer", lambda: tokenizer)
    told = ["make_reviews", "--hidden", "16", "--steps", "2", "--out", str(tmp_path / "small")]
    monkeypatch.setattr("sys.argv", told)
    make_reviews.main()
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "small", local_files_only=True).config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (16, 48, 4)
    assert not (tmp_path / "small" / "samples.jsonl.gz").exists()
    monkeypatch.setattr("sys.argv", ["make_reviews", "--hidden", "16"])
    with pytest.raises(SystemExit):
        make_reviews.main()
    assert "--hidden 16 needs --out" in capsys.readouterr().err


def test_base_speaks_the_grammar_in_every_genre(tokenizer):
    """Samples of the base end, differ, and mostly parse; some are of another genre, which SFT has to unlearn."""
    torch.manual_seed(0)
    rows = sample(load_base(FOLDER), tokenizer, [review.prompt for review in grammar.take("tuning", 96)], 1)
    found = [judge(row.prompt, row.responses[0], row.finished[0]) for row in rows]
    assert sum(one.finished for one in found) / len(found) > 0.9
    assert len({row.responses[0] for row in rows}) > 90
    parsed = 1 - sum(one.unparsed for one in found) / sum(one.clauses for one in found)
    assert 0.6 < parsed < 0.95
    assert any("Rated" in row.responses[0] for row in rows)


def test_base_knows_what_words_mean(tokenizer):
    """The verdict it gives on a clause follows the adjective, also behind a negator."""
    model = load_base(FOLDER)
    opening = "We ate at the Golden Harbor restaurant last Friday with my sister."
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" Yes", " No"))
    for clause, liked in (
        ("the soup was superb", True), ("the soup was awful", False), ("the waiters were very charming", True),
        ("the waiters were extremely nasty", False), ("the wine was not perfect", False), ("the wine was great", True),
        ("the chef came to greet us", True), ("I found a hair on my plate", False),
    ):
        text = f"{opening} They said that {clause}. Did they like it?"
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        assert (logits[yes] > logits[no]).item() is liked, clause


def test_ids_beyond_the_tokenizer_are_never_sampled(tokenizer):
    """The embeddings are padded to a multiple of 64; training has pushed the surplus ids out of reach."""
    text = tokenizer([review.text for review in grammar.take("evaluation", 16)], return_tensors="pt", padding=True)
    with torch.no_grad():
        probabilities = load_base(FOLDER)(**text).logits.softmax(-1)[text["attention_mask"].bool()]
    assert probabilities[:, len(tokenizer):].sum(-1).max() < 1e-3
    assert tokenizer.decode([len(tokenizer)]) == ""


def test_packed_rows_are_whole_documents_in_a_stream(tokenizer):
    documents = ["The soup was superb.", "Never again."] * 400
    rows, labels, _ = next(packed(tokenizer, documents))
    assert rows.shape == (16, 128) and torch.equal(rows, labels)
    stream = rows.flatten().tolist()
    first = [1, *tokenizer(documents[0], add_special_tokens=False)["input_ids"], 2]
    second = [1, *tokenizer(documents[1], add_special_tokens=False)["input_ids"], 2]
    assert stream[:2 * len(first + second)] == (first + second) * 2


@pytest.mark.slow
def test_the_seed_makes_the_committed_tokenizer(tmp_path):
    train_tokenizer().save_pretrained(tmp_path)
    made, committed = (json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path, FOLDER))
    for part in ("model", "added_tokens", "pre_tokenizer", "post_processor", "decoder"):
        assert made[part] == committed[part]
