"""Measure an 8B model's training on a CUDA device; called by ``.ci/gpu``.

    python -m benchmarks.gpu [--dry] [--out FOLDER] [--part NAME]

Without --part every part runs in a process of its own, within its budget of seconds, and a page is written at the end.
--dry: a tiny model on the CPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from algorithms.common.support.checkout import project

ROOT = project()
WHOLE = 455  # seconds of all parts
PARTS = ("tests", "train", "ppo", "sampling", "fits")


def main(arguments: list[str] | None = None) -> int:
    """0 where every part was done, 1 otherwise; what was measured is written either way."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu")
    parser.add_argument("--part", choices=PARTS)
    told = parser.parse_args(arguments)
    if told.part:
        return run_part(told.part, told.dry, told.out)
    if not told.dry and not _has_cuda():
        print("device: found no CUDA device; expected one; fix: --dry, which runs a tiny model on the CPU",
              file=sys.stderr)
        return 2
    end = time.monotonic() + WHOLE
    codes = [_in_time(part, told.dry, told.out, end - time.monotonic()) for part in PARTS]
    write_page(told.out)
    return int(any(codes))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def write_page(out: Path) -> None:
    from benchmarks.gpu.page import page

    (out / "README.md").write_text(page(out), encoding="utf-8")


def budget(part: str, dry: bool) -> float:
    """Seconds."""
    from benchmarks.gpu.settings import DRY, FULL

    return (DRY if dry else FULL).budgets[part]


def ended(command: list[str], seconds: float, **options) -> tuple[int | None, str]:
    """Run a command for ``seconds`` at most, and end it with all that it started. Its exit status (None: it was
    ended), and what it printed where ``stdout`` is a pipe.
    """
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **options) as process:
        try:
            output, _ = process.communicate(timeout=max(seconds, 0.1))
            return process.returncode, output or ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return None, output or ""


def _in_time(part: str, dry: bool, out: Path, left: float) -> int:
    """A part in its own process, ended at its budget, or when nothing is left of the whole."""
    from benchmarks.gpu.journal import CUT, FAILED, close_if_running

    command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, "--out", str(out), *["--dry"] * dry]
    path = out / f"{part}.json"
    path.unlink(missing_ok=True)  # an earlier run's
    seconds = min(budget(part, dry), left)
    code, _ = ended(command, seconds)
    if code is None:
        close_if_running(path, CUT, f"its {seconds:.0f} seconds were over")
    else:
        close_if_running(path, FAILED, f"its process ended with {code}")
    print(f"{part}: {'cut off' if code is None else f'exit {code}'}", flush=True)
    return 1 if code is None else code


def run_part(part: str, dry: bool, out: Path) -> int:
    """One part in this process; 0 where it was done."""
    import torch

    from benchmarks.gpu import fits, sampling, train
    from benchmarks.gpu.journal import DONE, FAILED, Journal
    from benchmarks.gpu.settings import DRY, FULL

    settings = DRY if dry else FULL
    journal = Journal(out, part, budget(part, dry) - 5)  # what is left for its end
    if part == "tests":
        return _tests(journal)
    measure = {"train": train.measure_train, "ppo": train.measure_ppo, "sampling": sampling.measure_sampling,
               "fits": fits.measure_fits}[part]
    device = torch.device("cpu" if dry else "cuda")
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure(settings, device, journal, Path(folder))
        except Exception as error:  # the other parts go on
            traceback.print_exc()
            journal.close(FAILED, error=f"{type(error).__name__}: {error}"[:1000])
            return 1
    journal.close(DONE)
    return 0


def _tests(journal) -> int:
    """``pytest -m gpu``, several at once where pytest-xdist is there: most of their time is starting."""
    from benchmarks.gpu.journal import CUT, DONE, FAILED

    several = ["-n", "4"] if importlib.util.find_spec("xdist") else []
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))
             if "mark.gpu" in path.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfEs", "--no-header", "-p", "no:cacheprovider",
               "--continue-on-collection-errors", *several, *files]
    code, output = ended(command, journal.left(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    status = CUT if code is None else DONE if code == 0 else FAILED
    lines = output.strip().splitlines()
    journal.add("pytest -m gpu", output=output[-6000:])
    journal.close(status, summary=lines[-1] if lines else "no output")
    print(output[-6000:])
    return int(status != DONE)


if __name__ == "__main__":
    raise SystemExit(main())
