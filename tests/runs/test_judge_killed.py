"""``task=judge`` in a process of its own, killed again and again, with a server that fails in every way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from random import Random

import pytest

from algorithms.common.evaluation.verdicts import FILE, read
from command_line import ROOT
from report_runs import figure, result, write_run
from served_judge import FAULTS, half_sentence, serving
from vote_setup import leave_runs

pytestmark = pytest.mark.slow
PROMPTS = 100


def judging(folder, url):
    return subprocess.Popen(
        [sys.executable, "run.py", "task=judge", f"runs={folder}", "judge=openai", "judge.model=some/m",
         f"judge.url={url}", "verdicts.against=round_robin", "judge.wait=0.01", "judge.timeout=0.5", "judge.tries=8",
         f"stages.folder={folder}.stages", f"hydra.run.dir={folder}.out"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"})


def better(messages):
    """By the number in the answers, so that every question has one right verdict; each ninth has none."""
    first, second = (messages[0]["content"].partition(f"=== Reply {letter}\n")[2].partition("\n")[0] for letter in "AB")
    if int(first.split()[1]) % 9 == 0:
        return half_sentence
    return "A" if first.startswith("good") else "B"


def test_nothing_is_lost_and_nothing_guessed(tmp_path):
    pytest.importorskip("openai", reason="the extra judge is not installed")
    names = ("one", "two")
    leave_runs(tmp_path / "answers", PROMPTS, names,
               lambda name, number: f"{'good' if (name == 'one') == (number % 2 == 0) else 'bad'} {number}")
    sweep = tmp_path / "sweep"
    for name in names:
        write_run(sweep / name, result(name, figures={"length/mean": figure([1.0] * PROMPTS)}))
        shutil.copy(tmp_path / "answers" / name / "samples.parquet", sweep / name)
    random, answered = Random(0), Counter()

    def behave(messages, number):
        time.sleep(0.05)
        if number < 4 and random.random() < 0.4:
            return FAULTS[random.choice(sorted(FAULTS))]
        answered[str(messages)] += 1
        return better(messages)

    counts = []
    with serving(behave) as served:
        for _ in range(2):
            process = judging(sweep, served.url)
            while process.poll() is None and len(read(sweep / FILE)) < 50 * (len(counts) + 1):
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            counts.append(len(read(sweep / FILE)))
        process = judging(sweep, served.url)
        told = process.communicate(timeout=120)[0]
        assert process.returncode == 0, told
    assert 0 < counts[0] < counts[1] < 2 * PROMPTS, "both kills fell into the judging"
    found = read(sweep / FILE)
    assert len({one.asked for one in found}) == len(found) == 2 * PROMPTS, "nothing lost, nothing twice"
    for one in found:
        number = int(one.left_response.split()[1])
        right = "none" if number % 9 == 0 else "left" if number % 2 == 0 else "right"
        assert one.outcome == right, one
    twice = sum(count - 1 for count in answered.values())
    assert twice <= 2 * 4, "only what was on its way to a process that was killed is paid for again"
