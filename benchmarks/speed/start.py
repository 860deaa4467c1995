"""From the command to the checkpoint after DPO's first step, the program's start included, against TRL's script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from algorithms.common.support.checkout import project
from benchmarks.speed.request import BATCH, MOST_NEW, Answer, Request
from benchmarks.speed.texts import write_pairs
from benchmarks.speed.training import splits

UNIT = "starts"
COMPARED = False
ROOT = project()
LIMIT = 300  # seconds
ROWS = 2048  # what a run does with all of them before its first step, it does within the time that is taken


def until_it_appears(command: list[str], folder: Path, pattern: str, answer: Answer, device: str) -> Answer:
    """Start a command; the time until a file of that pattern is in the folder, when the command is ended."""
    with open(folder / "output.txt", "w", encoding="utf-8") as output, answer.watched(device):
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        end = time.monotonic() + LIMIT
        try:
            while not (found := any(folder.glob(pattern))) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not found:
        told = (folder / "output.txt").read_text(encoding="utf-8")[-1500:]
        raise RuntimeError(f"start: found no {pattern} after {LIMIT} s or the end of {command[:3]}: {told}")
    answer.items = 1
    return answer


def ours(request: Request) -> Answer:
    work = Path(request.work)
    write_pairs(request, work / "pairs.jsonl", ROWS)
    command = [sys.executable, str(ROOT / "run.py"), "algorithm=dpo", "algorithm.needs.reference=null", "data=file",
               f"data.path={work / 'pairs.jsonl'}", "model=hub", f"model.name={request.base}", "model.precision=fp32",
               "model.gradient_checkpointing=false", f"model.max_length={request.lengths.longest}",
               f"model.max_prompt_length={request.lengths.longest_prompt}", f"recipe.batch_size={BATCH}",
               "recipe.epochs=1", f"trainer.mixed_precision={'bf16' if request.precision == 'bf16' else 'no'}",
               "trainer.checkpoint_every=1", "trainer.progress=false", f"stages.folder={work / 'stages'}",
               f"hydra.run.dir={work / 'run'}",
               f"eval.sampling.max_new_tokens={MOST_NEW}"]
    return until_it_appears(command, work, "stages/.work/*/step-*/checkpoint.json", Answer(), request.device)


def trl(request: Request) -> Answer:
    work = Path(request.work)
    (work / "data").mkdir()
    write_pairs(request, work / "data/train.jsonl", ROWS)
    command = [sys.executable, "-m", "trl.scripts.dpo", "--model_name_or_path", str(request.base), "--dtype", "float32",
               "--dataset_name", str(work / "data"), "--use_peft", "--lora_r", "16", "--lora_alpha", "32",
               "--lora_target_modules", "all-linear", "--num_train_epochs", "1",
               *(text for key, value in request.option.items() for text in (f"--{key}", str(value))),
               "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none",
               "--output_dir", str(work / "run"),
               "--gradient_checkpointing", "false", "--bf16", str(request.precision == "bf16").lower(),
               *(["--use_cpu"] if request.device == "cpu" else [])]
    return until_it_appears(command, work, "run/checkpoint-1/trainer_state.json", Answer(), request.device)


SIDES = {"ours": ours, "TRL": trl}
OPTIONS = {"TRL": splits(BATCH, 1, 8)}
