"""How fast the project trains, samples, reads and starts, side by side with TRL and transformers.

    python -m benchmarks.speed [what=dpo,sft,…] [size=5m,100m] [device=cpu] [precision=fp32] [repeats=5] [steps=20]
                               [prompt=64-192] [response=16-96] [data=FILE] [out=benchmarks/results/speed]
                               [trl_ppo=PYTHON]

what       all of these, or some. From texts in memory to the last step (tokens, the reference's pass and the trainer
           included), against TRL's trainers: dpo, dpo_ref (TRL computes the reference beforehand), dpo_micro1 and
           dpo_micro8 (both sides set to one pair a pass, to eight, for their memory), sft, reward, reward_k4 (four
           ranked responses to a prompt), ppo_trl (needs trl_ppo).
           Rows that share a prompt against a row for each response, since the TRL of this environment has neither:
           rrhf_4, rrhf_8 (ranked responses to a prompt), ppo. The memory of PPO beside that of DPO: ppo_dpo.
           Against generate: sampling (four responses to a prompt), sampling_1, sampling_16, sampling_64 (that many
           prompts together), sampling_16of1 (16 responses to a prompt).
           loading: a file to tokens, against datasets and DPOTrainer; start: from the command to the first step's
           checkpoint, against TRL's script
size       tiny, 5m, 100m, 8b: Llamas of random weights, with LoRA of rank 16
device     cpu or cuda
precision  fp32 or bf16: what both sides compute in
repeats    runs of each side, in turn: A B B A
steps      optimiser steps of 8 records (ppo_trl: batches of 32, a fourth as many); prompts of sampling and
           sampling_1; half of the sequences of the other shapes, whose batches are full; hundreds of rows of loading
prompt     tokens of a prompt, from-to
response   tokens of a response, from-to
data       a file of comparisons, in any form that data.path of a run takes: the first 512 prompts, each with a pair of
           responses, that have these lengths, in tokens of the lab's vocabulary; without it texts are random words.
           Conversations become transcripts; white space around a response becomes a space before it. Where more
           responses than two are ranked they are the pair's, with their words moved on. Where there are fewer records
           than a run takes they come again, with a number before the prompt
out        where the results go
trl_ppo    the python of an environment with TRL 1.12.0, which has a PPOTrainer; without it ppo_trl is left out, and how
           to make one is told

Before anything is timed both sides' values (losses of the first steps, greedy tokens, tokens read) must agree; start,
ppo_dpo and ppo_trl have none. Every run is a process of its own with empty caches. The other side is timed with the
fastest of the settings that its module lists, whose values are compared, too. Peak memory is seen from outside and
counted above what the imports took; on a GPU it is what was allocated there. Each measurement is written as JSON when
it is whole; README.md beside it lists all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from algorithms.common.support.checkout import project
from algorithms.common.support.digests import file_digest
from benchmarks.speed.arguments import parse as read
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.side import KINDS, kind

ROOT = project()


@dataclass(frozen=True)
class Plan:
    """The command line."""

    what: tuple[str, ...] = tuple(KINDS)
    size: tuple[str, ...] = ("5m",)
    device: str = "cpu"
    precision: str = "fp32"
    repeats: int = 5
    steps: int = 20
    prompt: str = "-".join(map(str, Lengths.prompt))
    response: str = "-".join(map(str, Lengths.response))
    data: str = ""
    out: str = str(ROOT / "benchmarks/results/speed")
    trl_ppo: str = ""

    @property
    def lengths(self) -> Lengths:
        return Lengths.read(self.prompt, self.response)

    @cached_property
    def digest(self) -> str:
        """Of the file, as it is when it is first asked for."""
        return self.data and file_digest(self.data)

    @property
    def others(self) -> tuple[str, ...]:
        """What texts they are, where they are not the usual ones."""
        lengths = () if self.lengths == Lengths() else self.lengths.texts
        return (*lengths, *([f"{told_name(self.data)}-{self.digest[:8]}"] if self.data else []))


def parse(arguments: list[str]) -> Plan:
    """KEY=VALUE … → a plan. SystemExit with a message for what it does not know."""
    from benchmarks.random_models import SHAPES
    from benchmarks.speed.compare import TOLERANCE

    plan = read(Plan, arguments, {"what": tuple(KINDS), "size": tuple(SHAPES), "device": ("cpu", "cuda"),
                                  "precision": tuple(TOLERANCE)})
    try:
        longest = plan.lengths.longest
    except ValueError as error:
        raise SystemExit(f"prompt, response: found {error}; expected the least and the most tokens; fix: "
                         "prompt=64-192 response=16-96") from None
    if room := [size for size in plan.size if longest > SHAPES[size].positions]:
        raise SystemExit(f"prompt, response: found up to {longest} tokens together; expected at most "
                         f"{SHAPES[room[0]].positions}, the positions of {room[0]}; fix: shorter ones")
    if plan.trl_ppo and not os.access(plan.trl_ppo, os.X_OK):
        raise SystemExit(f"trl_ppo: found no program {plan.trl_ppo!r}; expected a python with TRL 1.12.0; fix: make it "
                         f"by {kind('ppo_trl').ENVIRONMENT}")
    if plan.data and not os.path.isfile(plan.data):
        raise SystemExit(f"data: found no file {plan.data!r}; expected one of comparisons; fix: data=FILE")
    return plan


def told_name(path: str) -> str:
    """A file's, without what means something in a table or a shell."""
    return re.sub(r"[^\w.-]+", "-", Path(path).name)


def main(arguments: list[str]) -> int:
    """0 where everything was measured, 1 where something was not: it is said, and the rest goes on."""
    if set(arguments) & {"--help", "-h"}:
        print(__doc__)
        return 0
    plan = parse(arguments)
    from algorithms.common.runs.results import commit, device_name, versions, write_json
    from benchmarks.speed.compare import Apart, compare
    from benchmarks.speed.page import page, shown

    out, failed, data = Path(plan.out), [], plan.data and os.path.abspath(plan.data)
    others = plan.others
    out.mkdir(parents=True, exist_ok=True)
    for size in plan.size:
        with tempfile.TemporaryDirectory() as folder:
            prepared = subprocess.run([sys.executable, "-m", "benchmarks.speed.prepare", size, folder,
                                       *plan.lengths.texts, *([data] if data else [])], cwd=ROOT)
            if prepared.returncode:
                return 1
            for what in plan.what:
                how = getattr(kind(what), "ENVIRONMENT", "")
                if how and not plan.trl_ppo:
                    print(f"{what} {size}: left out, it needs {how}", flush=True)
                    continue
                request = Request(what, "", size, plan.device, plan.precision, plan.steps, folder, "",
                                  python=plan.trl_ppo and os.path.abspath(plan.trl_ppo), lengths=plan.lengths,
                                  data=data)
                try:
                    found = compare(request, plan.repeats)
                except (Apart, RuntimeError) as error:
                    failed.append(what)
                    print(f"{what} {size}: {error}", file=sys.stderr)
                    continue
                about = {"commit": commit(), "versions": versions(), "device": device_name(),
                         "data": data and told_name(data), "data_sha256": plan.digest}
                name = "_".join([what, size, plan.device, plan.precision, *others])
                write_json(out / f"{name}.json", {**about, **found})
                (out / "README.md").write_text(page(out), encoding="utf-8")
                print(f"{what} {size}: {shown(found['ratios']['seconds'])}", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
