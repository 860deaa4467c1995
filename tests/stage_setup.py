"""What the tests of stages share: small settings, data of one source, a bench over a store."""

import dataclasses
import random

from algorithms.common.algorithm import Need
from algorithms.common.data.records import DataSets, LoadReport, Records
from algorithms.common.data.records.record import Record
from algorithms.common.evaluation.evaluate import EvalConfig
from algorithms.common.models.model import Lora, ModelConfig
from algorithms.common.models.sampling import Sampling
from algorithms.common.recipe import Recipe, TrainerConfig
from algorithms.common.runs.stages import Bench
from algorithms.common.support.store import Store
from algorithms.dpo import DPO
from algorithms.sft import SFT
from training_setup import ROOT

LAB = ROOT / "benchmarks/lab/reviews"
RECIPE = Recipe(lr=1e-2, batch_size=4, steps=3)
MODEL = ModelConfig(name=str(LAB), precision="fp32", lora=Lora(r=4, alpha=8), attention="eager",
                    gradient_checkpointing=False, max_length=96, max_prompt_length=48)
TRAINER = TrainerConfig(mixed_precision="no", progress=False, checkpoint_every=1)
EVAL = EvalConfig(prompts=4, samples=1, batch_size=4, sampling=Sampling(max_new_tokens=6))


def make_data(seed: int = 0) -> DataSets:
    draw = random.Random(seed)

    def text() -> str:
        words = ["food", "was", "good", "bad", "and", "staff", "room", "great"]
        return " the " + " ".join(draw.choices(words, k=draw.randint(2, 6)))

    def pairs(count: int, mark: str) -> Records:
        return Records.from_list([Record(f"{mark} {i}:", [text(), text()], [0.0, 1.0]) for i in range(count)])

    def shown(count: int, mark: str) -> Records:
        return Records.from_list([Record(f"{mark} {i}:", [text()]) for i in range(count)])

    return DataSets(preferences=pairs(10, "pair"), demonstrations=shown(10, "shown"), prompts=shown(2, "prompt"),
                    evaluation=shown(4, "eval"), heldout=pairs(4, "held"), tuning=shown(2, "tuning"),
                    report=LoadReport())


def make_bench(store: Store, data: DataSets | None = None, **changed) -> Bench:
    """What a process has: models of its own, the same store."""
    settings = {"model": MODEL, "trainer": TRAINER, "eval": EVAL, "seed": 0, **changed}
    return Bench(data=data or make_data(), store=store, **settings)


def on_sft(algorithm=DPO, recipe: Recipe = RECIPE, **options):
    return algorithm(needs={"reference": Need(SFT(), recipe)}, **options)


def model(**changed) -> ModelConfig:
    return dataclasses.replace(MODEL, **changed)


@dataclasses.dataclass
class AlsoReading(SFT):
    """Learns from another view besides its own."""

    beside: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.beside,) if self.beside else ()
