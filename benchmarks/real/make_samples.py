"""Makes the samples again whose pairs annotators compare in `data=film_reviews` (samples.jsonl.gz).

    python run.py experiment=real_text algorithm=sft data.compared=people hydra.mode=RUN hydra.run.dir=outputs/film_sft
    python -m benchmarks.real.make_samples outputs/film_sft      # about 10 minutes of one CPU core

Rows hold the samples, what the untuned model and gold's head made of them, and the hash of the human review whose
beginning they go on with; none of the human texts.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
from pathlib import Path

from algorithms.common.models.export import frozen_role
from algorithms.common.models.model import Models
from algorithms.common.models.sampling import Sampling, sample
from benchmarks.real.film_data import SAMPLES, sampled_reviews
from benchmarks.real.gold import HEAD, FilmGold
from benchmarks.real.smollm2 import SmolLM2

TRAIN, HELDOUT, EACH, MAX_NEW_TOKENS = 512, 128, 4, 40  # prompts to compare on, held-out ones, samples of a prompt


def make(policy: Path, file: Path, train: int = TRAIN, heldout: int = HELDOUT) -> None:
    """Write ``file`` with the samples of a run's policy."""
    model = SmolLM2(precision="fp32", gradient_checkpointing=False)
    models = Models(model, "auto")
    frozen_role(models, "policy", policy)
    reviews = sampled_reviews(None, train, heldout)
    prompts = [one.prompt for one in reviews]
    settings = Sampling(max_new_tokens=MAX_NEW_TOKENS, batch_size=128)
    ids = [models.prompt_ids(prompt, MAX_NEW_TOKENS) for prompt in prompts]
    keys = [f"{one.number:016x}" for one in reviews]
    drawn = sample(models, "policy", ids, settings, 0, EACH, keys)
    texts = [[models.template.clean_response(prompt, models.template.decode(one.ids)) for one in row]
             for prompt, row in zip(prompts, drawn)]
    z, nll = FilmGold(model.folder(), str(HEAD)).measured([one for one in prompts for _ in range(EACH)],
                                                          [text for row in texts for text in row])
    rows = []
    for place, key in enumerate(keys):
        own = slice(place * EACH, (place + 1) * EACH)
        rows.append({"review": key, "responses": texts[place],
                     "finished": [one.finished for one in drawn[place]],
                     "z": [round(value, 4) for value in z[own]], "nll": [round(value, 4) for value in nll[own]]})
    write(rows, file)


def write(rows: list[dict], file: Path) -> None:
    """Gzipped JSON lines without a time stamp or name: equal rows give an equal file."""
    raw = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8"))
    temporary = file.with_name(f".{file.name}.writing")
    temporary.write_bytes(raw.getvalue())
    os.replace(temporary, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="the folder of the supervised run")
    parser.add_argument("--file", type=Path, default=SAMPLES)
    asked = parser.parse_args()
    make(asked.policy, asked.file)
