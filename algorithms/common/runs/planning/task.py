"""``python run.py task=plan …``: the command that stands there is rehearsed, and what it will take is printed."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ...support.errors import ConfigError
from ...support.secrets import Mask
from ...support.terminal import show
from ..launching import SCRATCH
from ..settings import Settings, settings
from ..tasks import opened, store_of

log = logging.getLogger(__name__)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for what is rehearsed. The jobs of a sweep share one, which goes when all have ended (`launching`)."""
    state = HydraConfig.get()
    with _ending_when_killed():
        if state.mode == RunMode.MULTIRUN:
            yield Path(str(state.sweep.dir)) / SCRATCH
        else:
            with tempfile.TemporaryDirectory(prefix="plan-", ignore_cleanup_errors=True) as folder:
                yield Path(folder)


@contextmanager
def _ending_when_killed() -> Iterator[None]:
    """SIGTERM, which by default ends a process where it stands, unwinds it."""
    default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not default or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum, frame):
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def plan(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Print per stage, and in all, what the run would take; nothing of it is kept."""
    chosen, mask = settings(config), Mask(config)
    if chosen.budget.amount is not None:
        raise ConfigError(f"budget.amount: found {chosen.budget.amount} with task=plan; expected null: such a budget "
                          "says itself what each row takes; fix: budget.amount=null budget.equal=null")
    from ...support.memory import released
    from ...support.phases import shown

    with released(), shown(chosen.trainer.progress), _scratch() as scratch:
        show(_planned(chosen, mask, name, folder, scratch))


def _planned(chosen: Settings, mask: Mask, name: str, folder: Path, scratch: Path) -> str:
    from ...evaluation.metrics import figures
    from ...models.precision import pick_device
    from ...support.memory import room_bytes
    from ...support.store import Store
    from ..agenda import foretell, stages_of
    from ..auditing import Auditor
    from .rehearsal import Ledger, Part, Rehearsal
    from .steps import Took
    from .table import Plan, so_far

    before = so_far()
    kept = store_of(chosen.stages)
    real, auditor = opened(chosen, mask, kept, folder)
    foretell(stages_of(real, chosen.algorithm, chosen.recipe, name, auditor))
    if chosen.labels is not None:
        log.warning("labels: %s; what that takes is not in this plan", chosen.labels.foretell(real.data))
    ledger = Ledger()
    bench = Rehearsal(chosen.model, chosen.trainer, chosen.eval, real.data, chosen.seed, Store(scratch), chosen.reward,
                      None, mask.hide, kept=kept, ledger=ledger)
    bench.train(chosen.algorithm, chosen.recipe, name)
    evaluation, baseline = bench.evaluate(chosen.algorithm, chosen.recipe, name), bench.baseline(chosen.algorithm)
    auditor = Auditor(bench, chosen.auditor, chosen.auditor_half)
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
