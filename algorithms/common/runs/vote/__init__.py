"""``python run.py task=vote runs=FOLDER``: people say which of two answers is better, on a page of this machine."""

from __future__ import annotations

import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from ...data.records.lines import hydra_text
from ...data.records.lines import override as typed
from ...support.errors import ConfigError, UserError
from ...support.terminal import printable
from ..settings import build, seed

PEOPLE = "people"


@dataclass
class VoteConfig:
    """Who votes, and where the page is served."""

    name: str | None = None     # of the person: their votes are those of people/NAME; null: of people
    port: int = 0               # 0: any that is free

    def __post_init__(self):
        if self.name is not None and (not self.name.strip() or "/" in self.name or printable(self.name) != self.name):
            raise ConfigError(f"vote.name: found {printable(self.name)!r}; expected a name without /; "
                              "fix: vote.name=NAME")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"vote.port: found {self.port}; expected 0 to 65535; "
                              "fix: vote.port=0 takes any that is free")

    @property
    def judge(self) -> str:
        return PEOPLE if self.name is None else f"{PEOPLE}/{self.name}"


def vote(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Serves the page until Ctrl+C. Votes go to verdicts.parquet in the runs' folder, each before the next is asked."""
    if not isinstance(config.runs, str):
        raise ConfigError(f"runs: found {config.runs!r}; expected the folder of finished runs; fix: runs=multirun/…")
    parts, number = build(config, ("vote", "verdicts")), seed(config)
    try:
        import uvicorn

        from .server import application
    except ImportError as error:
        raise ConfigError(f"task: found vote, which needs the package {error.name}; expected it installed; "
                          "fix: pip install -e '.[arena]' -c constraints.txt") from error
    from ...evaluation.verdicts import FILE, finished_runs
    from .ballot import Ballot

    target, chosen = Path(config.runs), parts["vote"]
    pairs = parts["verdicts"].pairs(finished_runs(target))
    ballot = Ballot(target / FILE, pairs, chosen.judge, number)
    progress = ballot.progress()
    if not progress.total:
        raise UserError(f"runs: found {len(pairs):,} pairs of answers in {target}, each twice the same text; expected "
                        "some that differ; fix: runs=… of other runs, or verdicts.against=round_robin")
    data = override(target / FILE)
    after = [f"python run.py task=inspect data=verdicts {data}", f"python run.py data=verdicts {data}"]
    token = secrets.token_urlsafe(24)
    with listening(chosen.port) as place:
        settings = uvicorn.Config(application(ballot, token, after), log_config=None, log_level="warning",
                                  access_log=False, lifespan="off", server_header=False, timeout_graceful_shutdown=3)
        print(f"vote as {chosen.judge}: http://127.0.0.1:{place.getsockname()[1]}/{token}/\n"
              f"{progress.total:,} pairs of answers, {progress.voted + progress.skipped:,} of them done"
              f"{same(len(pairs) - progress.total)}. Keys: 1, 2, t (tie), s (skip). Ctrl+C ends it; every vote is kept "
              "at once.", flush=True)
        try:
            uvicorn.Server(settings).run(sockets=[place])
        except KeyboardInterrupt:   # how it ends
            pass
    progress = ballot.progress()
    still = progress.total - progress.voted - progress.skipped
    print(f"\n{progress.voted:,} votes, {progress.skipped:,} skipped, {still:,} pairs open: "
          f"{printable(str(ballot.path))}\n" + "\n".join(after))


def override(path: Path) -> str:
    """Of ``data.path``, as it is typed in a shell."""
    text = str(path)
    return typed("data.path", text if re.fullmatch(r"[/A-Za-z_][/A-Za-z0-9_.-]*", text) else hydra_text(text))


def same(count: int) -> str:
    return f" ({count:,} more are twice the same text and are not asked)" if count else ""


def listening(port: int) -> socket.socket:
    """A socket that this machine alone can reach."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(f"vote.port: found {port}, which cannot be taken ({error.strerror}); expected one that is "
                          "free; fix: vote.port=0 takes any") from error
