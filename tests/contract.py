"""What every method owes, whoever wrote it: checks of one name in ``conf/algorithm``, on a few records of the lab.

``test_contract.py`` holds all methods to it, ``test_contributing.py`` those that CONTRIBUTING.md shows.
"""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
from functools import cached_property
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from safetensors.torch import load_file

from algorithms.common.algorithm import Algorithm
from algorithms.common.data.template import Example
from algorithms.common.logprobs import token_logprobs
from algorithms.common.models.export import HEAD, frozen_role, weights_file
from algorithms.common.runs.settings import Settings, settings
from algorithms.common.runs.stages import Bench
from algorithms.common.support.store import Store
from benchmarks import report
from command_line import choices, composed, invoke
from training_setup import lines

STEPS = 3
SMALL = ["data=reviews", "data.demonstrations=24", "data.preferences=24", "data.prompts=24", "data.evaluation=4",
         "data.tuning=4", "eval.prompts=2", "eval.pairs=4", "eval.sampling.max_new_tokens=6", "model.lora.r=4",
         "trainer.checkpoint_every=1", "trainer.mixed_precision=no", "trainer.progress=false"]
LAB = {"rating_model": ["algorithm.lowest=0", "algorithm.bins=2"]}  # the lab's scores are 0 and 1, no stars
CLAIMS = ("micro_batches", "resume")  # what ``Algorithm.declines`` may name
COSTS = ("seconds", "tokens_trained", "tokens_sampled", "reward_queries", "labels", "peak_memory_bytes",
         "resident_models", "trainable_parameters")


class Killed(Exception):
    pass


def recipes(node: DictConfig | ListConfig, path: str = "") -> list[str]:
    """Where a composed config has recipes: the method's own, and those of the stages it or its reward stands on."""
    if not OmegaConf.is_config(node) or isinstance(node, ListConfig) or node._is_none():
        return []
    own = [path] if str(node.get("_target_")).endswith(".Recipe") else []
    keys = [key for key in node if not OmegaConf.is_missing(node, key)]
    return own + [found for key in keys for found in recipes(node[key], f"{path}.{key}".lstrip("."))]


@dataclasses.dataclass
class Anew(Bench):
    """Trains one method from the start; the stages it stands on are those that another bench keeps."""

    kept: Bench | None = None
    method: Algorithm | None = None

    def train(self, algorithm, recipe, name="training") -> Path:
        return (super() if algorithm is self.method else self.kept).train(algorithm, recipe, name)


class Contract:
    """One method on the lab: its run of the command line, and further trainings over the same stages."""

    def __init__(self, name: str, folder: Path, stages: Path, conf: Path | None = None):
        """folder: for this method's runs; stages: shared by methods; conf: a config folder beside the project's."""
        self.name, self.folder, self._conf = name, folder, conf
        small = [f"algorithm={name}", *SMALL, f"stages.folder={stages}"]
        composed = self.composed(*small)
        steps = [f"{path}.{key}" for path in recipes(composed) for key in (f"steps={STEPS}", "batch_size=8")]
        # the fewer draws, the less likely is one so near to a token's edge that rounding moves it
        few = ["algorithm.samples=2"] if composed.algorithm.get("samples", 1) > 2 else []
        self.overrides = [*small, *few, *LAB.get(name, []), *steps]

    def composed(self, *overrides: str) -> DictConfig:
        return composed(*[f"hydra.searchpath=[file://{self._conf}]"] * bool(self._conf), *overrides)

    @cached_property
    def _config(self) -> DictConfig:
        return self.composed(*self.overrides)

    @cached_property
    def _settings(self) -> Settings:
        return settings(self._config)

    def settings(self) -> Settings:
        """A copy of one's own: a training leaves its traces in an algorithm."""
        return copy.deepcopy(self._settings)

    @cached_property
    def run(self) -> Path:
        """The folder of ``python run.py`` with this method."""
        folder = self.folder / "run"
        beside = ["--config-dir", str(self._conf)] if self._conf else []
        ended = invoke(*beside, *self.overrides, f"hydra.run.dir={folder}")
        assert ended.status == 0, ended.err
        return folder

    @cached_property
    def bench(self) -> Bench:
        assert self.run.is_dir()  # its stages are kept, and found again here
        chosen = self.settings()
        bench = Bench(chosen.model, chosen.trainer, chosen.eval, chosen.data.load(chosen.seed), chosen.seed,
                      Store(chosen.stages.folder), chosen.reward)
        bench.check(chosen.algorithm)
        return bench

    @cached_property
    def stage(self) -> Path:
        """What the run trained, in one piece and in micro-batches of 8."""
        chosen = self.settings()
        return self.bench.train(chosen.algorithm, chosen.recipe, self.name)

    def anew(self, algorithm: Algorithm, store: str, **trainer) -> Path:
        """The folder of the stage, trained once more in a store of its own; the stages beneath are the run's."""
        bench = self.bench
        again = Anew(bench.model, dataclasses.replace(bench.trainer, **trainer), bench.eval, bench.data, bench.seed,
                     Store(self.folder / store), bench.reward, kept=bench, method=algorithm)
        vars(again)["models"] = bench.models
        return again.train(algorithm, self.settings().recipe, self.name)

    # The claims

    def composes_at_both_scales(self) -> None:
        for scale in choices("scale"):
            config = self.composed(f"algorithm={self.name}", f"scale@_global_={scale}")
            assert isinstance(settings(config).algorithm, Algorithm)

    def trains(self) -> None:
        """On its own steps, and leaves finite numbers under names of losses."""
        found, algorithm = lines(self.stage), self.settings().algorithm
        assert len(found) == (0 if algorithm.works_when_asked else STEPS)
        for line in found:
            assert [name for name in line if name.startswith("loss/")] and "grad_norm" in line
            assert line["grad_norm"] > 0

    def is_the_same_in_micro_batches(self) -> None:
        """8 × 1 ≡ 1 × 8, and three of at most 3: losses, gradient norms and weights agree but for rounding."""
        whole, learned = lines(self.stage), load_file(weights_file(self.stage))
        for size in (1, 3):
            chosen = self.settings()
            stage = self.anew(chosen.algorithm, f"micro-{size}", micro_batch_size=size)
            for one, other in zip(lines(stage), whole, strict=True):
                watched = [name for name in other if name.startswith("loss/") or name == "grad_norm"]
                assert {name: one[name] for name in watched} == pytest.approx(
                    {name: other[name] for name in watched}, rel=1e-3, abs=1e-4), f"micro-batches of {size}"
            self._samples_alike(stage)
            apart = [(value - learned[key]).abs() for key, value in load_file(weights_file(stage)).items()]
            # a step moves a weight by about the learning rate
            assert torch.cat([one.flatten() for one in apart]).mean() < 0.01 * chosen.recipe.lr

    def _samples_alike(self, stage: Path) -> None:
        """Rollouts draw the same tokens, however many are decoded together."""
        file = "rollouts.jsonl"
        assert (stage / file).is_file() == (self.stage / file).is_file()
        if (stage / file).is_file():
            one, other = ([json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]
                          for folder in (stage, self.stage))
            assert [line["response"] for line in one] == [line["response"] for line in other]

    def goes_on_after_a_kill(self) -> None:
        """Killed after step 2 and started again: one more step, and all is equal to the bit."""
        algorithm = self.settings().algorithm
        experience, began = algorithm.experience, []

        def dies(context, examples):
            began.append(context.step)
            if context.step == STEPS - 1 and began.count(context.step) == 1:
                raise Killed
            return experience(context, examples)

        algorithm.experience = dies
        with pytest.raises(Killed):
            self.anew(algorithm, "killed")
        again = self.settings().algorithm  # as a process of its own would have it
        experience, again.experience = again.experience, dies
        torch.manual_seed(1)  # whatever that process drew before
        stage = self.anew(again, "killed")
        assert began == [*range(STEPS), STEPS - 1], "the steps before the kill are not repeated"
        assert lines(stage) == lines(self.stage)
        for path in (weights_file(self.stage), self.stage / HEAD, self.stage / "state.json"):
            assert not path.is_file() or (stage / path.name).read_bytes() == path.read_bytes()

    def stands_in_a_table_with_its_costs(self) -> None:
        assert report.main([str(self.run)]) == 0
        with open(self.run / "table.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        (row,) = [one for one in rows if one["algorithm"] == self.name]    # its start may stand beside it
        assert row["status"] == "complete"
        costs = {name: float(row[name]) for name in COSTS}
        assert all(value >= 0 for value in costs.values()) and costs["seconds"] > 0
        algorithm = self.settings().algorithm
        assert costs["tokens_trained"] > 0 or not algorithm.needs.get("reference"), "it or a stage beneath has trained"
        assert (costs["labels"] > 0) >= (algorithm.view in ("pairs", "ranked", "rated", "preferred"))

    def is_exported(self) -> None:
        """Its folder loads into transformers and PEFT, and answers (or scores, with its head) as it did in training."""
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(self.run, dtype=torch.float32)
        models, role = self.bench.models, self.settings().algorithm.role
        models.clear_roles()
        own = frozen_role(models, role, self.stage)
        prompt, response = models.template.tokenizer("the film was good").input_ids, [7, 8, 9]
        batch = models.collate([Example(prompt, [response], [False], None, "one")])
        with torch.no_grad():
            answer = model(torch.tensor([prompt + response]), output_hidden_states=True)
            logprobs = token_logprobs(answer.logits[:, len(prompt) - 1:-1], torch.tensor([response]))  # (1, 3)
            torch.testing.assert_close(own.token_logprobs(batch)[0], logprobs, atol=1e-4, rtol=1e-4)
            if (self.run / HEAD).is_file():
                head = load_file(self.run / HEAD)
                scores = answer.hidden_states[-1][:, -1] @ head["weight"].T + head["bias"]  # (1, outputs)
                torch.testing.assert_close(own.final_outputs(batch)[0], scores, atol=1e-4, rtol=1e-4)
        assert (self.run / HEAD).is_file() == (role != "policy"), "what scores has a head, what answers has none"
