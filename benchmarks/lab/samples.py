"""The committed samples of the reviews lab: responses of a fine-tuned policy, of which the annotators compare pairs."""

import gzip
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "reviews"      # base model, tokenizer, samples
SAMPLES_FILE = "samples.jsonl.gz"
TRAIN_PROMPTS, HELDOUT_PROMPTS = 1536, 256      # the file's lines, in this order
SAMPLES = 4                                     # responses per prompt, all distinct
MAX_NEW_TOKENS = 56                             # a sample's cap, EOS included


@dataclass(frozen=True)
class Samples:
    """The responses to one prompt; `finished` says of each whether it ended with EOS before the cap."""

    prompt: str
    responses: list[str]
    finished: list[bool]


def read_samples(folder: Path = FOLDER) -> list[Samples]:
    with gzip.open(folder / SAMPLES_FILE, "rt", encoding="utf-8") as file:
        return [Samples(**json.loads(line)) for line in file]


def write_samples(folder: Path, rows: list[Samples]) -> None:
    """Gzipped JSON lines without a time stamp or name: equal rows give an equal file."""
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    raw = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.write(text.encode())
    (folder / SAMPLES_FILE).write_bytes(raw.getvalue())
