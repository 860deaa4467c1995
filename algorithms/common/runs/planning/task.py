"""``python run.py task=plan …``: the command that stands there is rehearsed, and what it will take is printed."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from ...support.errors import ConfigError
from ...support.secrets import Mask
from ...support.terminal import show
from ..settings import Settings, settings
from ..tasks import load, store_of

log = logging.getLogger(__name__)


@cache
def _scratch() -> Path:
    """A folder for what is rehearsed, which ends with the process: the jobs of a sweep share what they stand on."""
    folder = Path(tempfile.mkdtemp(prefix="plan-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def plan(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Print per stage, and in all, what the run would take; nothing of it is kept."""
    chosen, mask = settings(config), Mask(config)
    if chosen.budget.amount is not None:
        raise ConfigError(f"budget.amount: found {chosen.budget.amount} with task=plan; expected null: such a budget "
                          "says itself what each row takes; fix: budget.amount=null budget.equal=null")
    from ...support.memory import released
    from ...support.phases import shown

    with released(), shown(chosen.trainer.progress):
        show(_planned(chosen, mask, name, folder))


def _planned(chosen: Settings, mask: Mask, name: str, folder: Path) -> str:
    from ...evaluation.metrics import figures
    from ...models.precision import pick_device
    from ...support.memory import room_bytes
    from ...support.store import Store
    from ..agenda import foretell, stages_of
    from ..auditing import Auditor
    from ..stages import Bench
    from .rehearsal import Ledger, Part, Rehearsal
    from .steps import Took
    from .table import Plan, so_far

    before = so_far()
    kept = store_of(chosen.stages)
    data = load(chosen.data, chosen.seed, folder, mask)
    real = Bench(chosen.model, chosen.trainer, chosen.eval, data, chosen.seed, kept, chosen.reward, folder, mask.hide)
    auditor = Auditor(real, chosen.auditor)
    auditor.check()
    data = real.check(chosen.algorithm, auditor.readings())
    foretell(stages_of(real, chosen.algorithm, chosen.recipe, name, auditor))
    ledger = Ledger()
    bench = Rehearsal(chosen.model, chosen.trainer, chosen.eval, data, chosen.seed, Store(_scratch()), chosen.reward,
                      None, mask.hide, kept=kept, ledger=ledger)
    bench.train(chosen.algorithm, chosen.recipe, name)
    evaluation, baseline = bench.evaluate(chosen.algorithm, chosen.recipe, name), bench.baseline(chosen.algorithm)
    auditor = Auditor(bench, chosen.auditor)
    if auditor.applies and chosen.algorithm.role == "policy":
        began, asked = Took.now(), len(evaluation.samples)
        trained = ledger.spent
        auditor.judged(evaluation, name), auditor.judged(baseline, "the start"), auditor.agreement()
        own = Took.now() - began - (ledger.spent - trained)
        times = chosen.eval.prompts * chosen.eval.samples / max(asked, 1)
        ledger.parts["auditor"] = Part("the auditor's scores", "audit", own * max(1.0, times))
        ledger.spent += own
    if len(evaluation.samples):
        figures(chosen.algorithm, evaluation, baseline, bench.start(chosen.algorithm).against)
    device = pick_device()
    made = Plan(list(ledger.parts.values()), before.rest(ledger.spent), chosen.budget.price_per_hour,
                room_bytes(device), str(device))
    return made.text(name)
