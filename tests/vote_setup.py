"""Finished runs to vote on, and the server as a user starts it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

from command_line import ROOT

SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
HOSTILE = f"{SCRIPT}\x1b[31mred\x1b[0m \u202edesrever\u202c &amp; <b>no bold</b>"
CHINESE = "这是一个关于电影的回答。我们认为它非常好看，值得一看。" * 12
LONG = "\n\n".join(f"Paragraph {i}. " + "A sentence that says little, but says it at length. " * 6 for i in range(12))
UNBROKEN = "https://example.org/" + "a" * 400
SPICED = (HOSTILE, CHINESE, LONG, UNBROKEN, "", "one\r\n\ttwo  three")
CHAT = ("\n\nHuman: What is a <b>haiku</b>?\n\nAssistant: A poem of three lines."
        "\n\nHuman: Write one about rain.\n\nAssistant:")


def leave_runs(folder: Path, prompts: int, names=("dpo-run", "ppo-run"), answer=None) -> Path:
    """Runs of one seed, an answer each to the same prompts. answer: from a run's name and a prompt's number."""
    answer = answer or (lambda name, number: f"Answer {number} in the words of {ord(name[0]) % 7}.")
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text(json.dumps({"status": "complete", "algorithm": "x", "seed": 0}))
        rows = [{"prompt_id": f"p{number:03d}", "sample": 0, "prompt": f"Question {number}?", "picked": True,
                 "response": answer(name, number), "finished": True} for number in range(prompts)]
        if len(rows) > 1:
            rows[1]["prompt"] = CHAT
        pd.DataFrame(rows).to_parquet(folder / name / "samples.parquet")
    return folder


def spiced(name: str, number: int) -> str:
    """Answers that try a page: markup, terminal escapes, length, scripts of all kinds, nothing at all."""
    return SPICED[(number + (name == "dpo-run")) % len(SPICED)]


class Server:
    """``python run.py task=vote`` in a process of its own; used as a context it ends with it."""

    def __init__(self, folder: Path, *overrides: str):
        self.process = subprocess.Popen(
            [sys.executable, "run.py", "task=vote", f"runs={folder}", "verdicts.against=round_robin", *overrides,
             f"hydra.run.dir={folder}/.hydra-run"], cwd=ROOT, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.told = self.process.stdout.readline() + self.process.stdout.readline()
        self.url = self.told.split("\n")[0].partition(": ")[2]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error) -> None:
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> str:
        """What it prints at its end."""
        if self.process.stdout.closed:
            return ""
        self.process.send_signal(how)
        rest = self.process.stdout.read()
        self.process.wait(30)
        self.process.stdout.close()
        return rest
