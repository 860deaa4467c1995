"""Which claims of the contract a method may decline, and that the README says so."""

import re
import sys
from pathlib import Path

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from command_line import CONF, ROOT, choices
from contract import CLAIMS

KINDS = {name: get_class(OmegaConf.load(CONF / "algorithm" / f"{name}.yaml")._target_)
         for name in choices("algorithm")}
FILES = {name: Path(sys.modules[kind.__module__].__file__) for name, kind in KINDS.items()}
HOSTS = re.compile(r"^\s*(?:from|import) trl\b", re.MULTILINE)  # another project's trainer


@pytest.mark.parametrize("name", KINDS)
def test_only_what_takes_no_steps_or_hosts_a_trainer_declines(name):
    kind = KINDS[name]
    assert set(kind.declines) <= set(CLAIMS)
    hosts = HOSTS.search(FILES[name].read_text(encoding="utf-8"))
    assert not kind.declines or kind.works_when_asked or hosts


@pytest.mark.parametrize("file", sorted(set(FILES.values())), ids=lambda file: file.stem)
def test_the_readme_shows_what_is_declined(file):
    link = f"({file.relative_to(ROOT).as_posix()})"
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
            if line.startswith("|") and link in line]
    assert len(rows) == 1, f"the README's table has one line for {file.name}"
    cell = rows[0].strip("| ").rpartition("|")[2].strip()
    declined = {claim for name, kind in KINDS.items() if FILES[name] == file for claim in kind.declines}
    assert set(re.findall(r"`(\w+)`", cell)) == declined
    assert declined or cell == "exact"
