"""Makes the reviews lab's artefacts again: tokenizer, base model, and the samples its annotators compare.

    python -m benchmarks.lab.make_reviews [--out DIR] [--steps N] [--hidden H]

1. Trains a byte-level BPE tokenizer on the generated corpus (`grammar.documents`).
2. Pretrains a 1M-parameter Llama on it: the base model of the lab.
3. Fine-tunes a throw-away copy on true reviews and samples four responses to each preference prompt, training and
   held-out, at temperature 1: the candidates of the labelled comparisons (`reviews_data` draws the labels).

About five minutes on two CPU cores. The corpus and the tokenizer are the same on every machine; weights differ in their
last bits between processors, and with them what is sampled, so the committed files are the reference. With another
width (`--hidden`) the first two are made alone: a base for a reward model of another size (`reward=trained_own`).
"""

import argparse
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from algorithms.common.models.precision import cpu_has_bf16
from benchmarks.lab import grammar
from benchmarks.lab.gold import judge
from benchmarks.lab.samples import (
    FOLDER,
    HELDOUT_PROMPTS,
    MAX_NEW_TOKENS,
    SAMPLES,
    TRAIN_PROMPTS,
    Samples,
    write_samples,
)

VOCABULARY = 1536                       # embeddings, a multiple of 64; the corpus runs out of merges at 1525 tokens
PAD, BOS, EOS = SPECIAL = ("<pad>", "<bos>", "<eos>")      # ids 0, 1, 2
TOKENIZER_DOCUMENTS = 20_000

ROWS, WIDTH = 16, 128                   # one pretraining step: packed rows of tokens
PRETRAIN_STEPS = 1400
HIDDEN = 128
PRETRAIN_LR = 3e-3

DEMONSTRATIONS = 3072
SFT_BATCH = 32
SFT_LR = 1e-3

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write (default: the committed one)")
    parser.add_argument("--steps", type=int, default=PRETRAIN_STEPS, help="pretraining steps (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="width of another base, a multiple of 4, which "
                        "needs a folder of its own (default: %(default)s, the lab's)")
    options = parser.parse_args()
    if options.hidden != HIDDEN and options.out == FOLDER:
        parser.error(f"--hidden {options.hidden} needs --out: the committed folder holds the base of {HIDDEN}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(options.out)
    pretrain(tokenizer, options.steps, hidden=options.hidden).to(torch.bfloat16).save_pretrained(options.out)
    if options.hidden != HIDDEN:
        return

    model = load_base(options.out)      # from the file: SFT starts from the rounded weights that are shipped
    _, heldout = prompt_sets()
    report("base", sample(model, tokenizer, heldout, 1))
    finetune(model, tokenizer)
    rows = sample_all(model, tokenizer)
    report("sft", rows)
    write_samples(options.out, rows)


def train_tokenizer(
    documents: Callable[[], Iterator[str]] = grammar.documents, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """A lab's byte-level BPE, in which most words are one token; it puts BOS before a text.

    A function of the corpus alone.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        itertools.islice(documents(), TOKENIZER_DOCUMENTS),
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, padding_side="left",
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )


def pretrain(
    tokenizer: PreTrainedTokenizerFast, steps: int, documents: Callable[..., Iterator[str]] = grammar.documents,
    rows: int = ROWS, width: int = WIDTH, vocabulary: int = VOCABULARY, hidden: int = HIDDEN,
) -> LlamaForCausalLM:
    """Train a base from scratch on packed documents: AdamW, constant to 60 % of the steps, then linear to 2 %.

    documents: seed → the stream of a corpus (seed 0 is trained on, 1 is validation).
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, attn_implementation="eager",
        )
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=PRETRAIN_LR, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / 50, max(0.02, min(1.0, 1 - 0.98 * (step / steps - 0.6) / 0.4)))
    )
    batches = packed(tokenizer, documents(), rows, width)
    start = time.monotonic()
    for step in range(steps):
        loss = train_step(model, optimiser, schedule, *next(batches))
        if step % 100 == 99:
            rate = (step + 1) * rows * width / (time.monotonic() - start)
            log.info("pretrain step %d: loss %.3f, %.0f tokens/s", step + 1, loss, rate)
    heldout = packed(tokenizer, documents(seed=1), rows, width)
    with torch.no_grad():
        losses = [_loss(model.eval(), *next(heldout)).item() for _ in range(16)]
    log.info("pretrain: validation loss %.3f after %.0f s", sum(losses) / len(losses), time.monotonic() - start)
    return model


def packed(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[str], rows: int = ROWS, width: int = WIDTH
) -> Iterator[tuple[torch.Tensor, torch.Tensor, None]]:
    """Batches of (rows, width) input ids and labels, cut from one stream of documents, each in BOS … EOS."""
    size = rows * width
    documents, stream = iter(documents), []
    while True:
        while len(stream) < size:
            for ids in tokenizer(list(itertools.islice(documents, 256)))["input_ids"]:
                stream += [*ids, tokenizer.eos_token_id]
        batch = torch.tensor(stream[:size]).view(rows, width)
        stream = stream[size:]
        yield batch, batch, None


def finetune(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """One epoch of full fine-tuning on true reviews; loss on the response and its EOS."""
    reviews = grammar.take("demonstrations", DEMONSTRATIONS)
    steps = len(reviews) // SFT_BATCH
    optimiser = torch.optim.AdamW(model.parameters(), lr=SFT_LR, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (0.1 * steps), 1 - step / steps)
    )
    model.train()
    for step in range(steps):
        batch = reviews[step * SFT_BATCH:(step + 1) * SFT_BATCH]
        loss = train_step(model, optimiser, schedule, *supervised(tokenizer, batch))
    log.info("sft: last loss %.3f", loss)
    model.eval()


def supervised(
    tokenizer: PreTrainedTokenizerFast, reviews: Sequence[grammar.Review]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded input ids, labels (-100 at prompt and padding) and attention mask, each (B, T).

    reviews: anything with a `prompt` and a `response`.
    """
    prompts = tokenizer([review.prompt for review in reviews])["input_ids"]
    responses = tokenizer([review.response for review in reviews], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(r) + 1 for p, r in zip(prompts, responses))
    ids = torch.full((len(reviews), width), tokenizer.pad_token_id)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(zip(prompts, responses)):
        tokens = torch.tensor([*prompt, *response, tokenizer.eos_token_id])
        ids[row, :len(tokens)] = tokens
        labels[row, len(prompt):len(tokens)] = tokens[len(prompt):]
        mask[row, :len(tokens)] = 1
    return ids, labels, mask


def _loss(
    model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Mean next-token cross-entropy over labels other than -100; bf16 autocast where the CPU computes in bf16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())


def train_step(model, optimiser, schedule, ids, labels, mask) -> float:
    loss = _loss(model, ids, labels, mask)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()
    return loss.item()


def load_base(folder: Path) -> LlamaForCausalLM:
    """The base model in fp32, ready to sample from."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def prompt_sets() -> tuple[list[str], list[str]]:
    """The training and the held-out preference prompts."""
    return (
        [review.prompt for review in grammar.take("preferences", TRAIN_PROMPTS)],
        [review.prompt for review in grammar.take("heldout", HELDOUT_PROMPTS)],
    )


@torch.no_grad()
def sample(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], count: int
) -> list[Samples]:
    """`count` responses per prompt at temperature 1, from torch's global generator."""
    batch = tokenizer(prompts, padding=True, return_tensors="pt")
    output = model.generate(
        **batch, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS,
        num_return_sequences=count, cache_implementation="static", disable_compile=True,
    )[:, batch["input_ids"].shape[1]:]
    responses = tokenizer.batch_decode(output, skip_special_tokens=True)
    finished = (output == tokenizer.eos_token_id).any(1).tolist()
    return [
        Samples(prompt, responses[i * count:(i + 1) * count], finished[i * count:(i + 1) * count])
        for i, prompt in enumerate(prompts)
    ]


def sample_all(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: int = 64) -> list[Samples]:
    """Distinct responses to every preference prompt, training prompts first, then held-out ones."""
    train, heldout = prompt_sets()
    rows: dict[str, Samples] = {}
    waiting = train + heldout
    while waiting:
        for start in range(0, len(waiting), batch):
            for row in sample(model, tokenizer, waiting[start:start + batch], SAMPLES):
                if len(set(row.responses)) == SAMPLES:      # else drawn again: equal texts cannot be compared
                    rows[row.prompt] = row
        waiting = [prompt for prompt in waiting if prompt not in rows]
    return [rows[prompt] for prompt in train + heldout]


def report(name: str, rows: list[Samples]) -> None:
    """Log what a policy's samples are like: finished, distinct, parsed, and their gold reward."""
    found = [judge(row.prompt, *sample) for row in rows for sample in zip(row.responses, row.finished)]
    texts = [response for row in rows for response in row.responses]
    gold = torch.tensor([one.gold for one in found])
    log.info(
        "%s: %d samples, finished %.3f, distinct %.3f, clauses parsed %.3f, gold %.3f, sd %.3f", name, len(found),
        sum(one.finished for one in found) / len(found), len(set(texts)) / len(texts),
        1 - sum(one.unparsed for one in found) / sum(one.clauses for one in found), gold.mean(), gold.std(),
    )


if __name__ == "__main__":
    main()
