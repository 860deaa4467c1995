"""Which methods can be trained on a source's data, by what each says of itself: its view, what it reads beside it, the
stages it stands on, and its own checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ..algorithm import Algorithm
from ..support.errors import ConfigError
from .stages import Bench

WORDS = {"pairs": "comparisons", "ranked": "rankings", "rated": "judged responses", "demonstrations": "demonstrations",
         "preferred": "preferred responses", "prompts": "prompts"}   # a view's records, for a reader
MEANT = {"pairs": "two responses to a prompt, one of them better", "ranked": "several responses to a prompt, in order",
         "rated": "responses with a score, a thumb or a rank", "demonstrations": "a prompt with one response",
         "preferred": "several responses to a prompt, one of them best", "prompts": "a prompt"}


@dataclass(frozen=True)
class Verdict:
    """Whether a method can be trained on the data."""

    method: str  # an option of the group algorithm
    view: str  # what it learns from
    records: int  # that it has of it
    through: tuple[str, ...] = ()  # names of the stages that it asks for rewards, trained first on the same data
    why_not: str | None = None


def folders() -> list[Path]:
    """Where this run's groups lie, a user's own first."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def methods(config: DictConfig, where: list[Path]) -> Iterator[tuple[str, DictConfig]]:
    """Every option of the group algorithm in these folders with the settings of its file, beside the rest of this
    config."""
    files = {file.stem: file for folder in reversed(where) for file in sorted((folder / "algorithm").glob("*.yaml"))}
    told = {name: OmegaConf.to_container(OmegaConf.load(file), resolve=False) for name, file in files.items()}
    rest = OmegaConf.create({key: value for key, value in OmegaConf.to_container(config, resolve=False).items()
                             if key != "algorithm"})
    for name in sorted(told):
        rest.algorithm = _composed(told, name)
        yield name, rest.algorithm


def _composed(told: dict[str, dict], name: str) -> dict:
    """A method's settings with those of the methods it stands on; recipes, which say nothing of data, are left out."""
    found: dict = {}
    for entry in told[name].get("defaults", []):
        if isinstance(entry, str):      # another method that it is a variant of, or _self_
            base = entry.partition("@")[0].rpartition("/")[2]
            found = _over(found, _composed(told, base)) if base in told else found
            continue
        for group, choice in entry.items():
            group, _, place = group.partition("@")
            made = _composed(told, choice) if group.strip("/") == "algorithm" and choice in told else None
            if place and not place.startswith("_"):
                for key in reversed(place.split(".")):
                    made = {key: made}
            found = _over(found, made or {})
    return _over(found, {key: value for key, value in told[name].items() if key != "defaults"})


def _over(below: dict, above: dict) -> dict:
    """Both; where both have a value, that of `above`."""
    return below | {key: _over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict)
                    else value for key, value in above.items()}


def verdicts(config: DictConfig, bench: Bench, where: list[Path]) -> list[Verdict]:
    """Of each method in these folders, by name; nothing is trained, no weights are loaded."""
    return [_verdict(bench, name, settings) for name, settings in methods(config, where)]


def _verdict(bench: Bench, name: str, settings: DictConfig) -> Verdict:
    try:
        algorithm = instantiate(settings, _convert_="all")
    except InstantiationException as error:
        return Verdict(name, str(settings.get("view")), 0, (), str(error.__cause__ or error))
    try:
        records = len(bench.view(algorithm.view)[0])
        source = bench.reward if algorithm.uses_reward else None
        through = tuple(source.needs()) if source else ()
        if lacking := _lacking(bench, algorithm):
            return Verdict(name, algorithm.view, records, through, lacking)
        bench.checked(algorithm)
    except ConfigError as error:
        return Verdict(name, algorithm.view, 0, (), str(error))
    return Verdict(name, algorithm.view, records, through)


def _asked(bench: Bench, algorithm: Algorithm, role: str, key: str) -> Iterator[tuple[str, str, str]]:
    """(the role of a stage beneath it or "", the view that it reads, where it stands in the config), of a method and of
    all that it stands on."""
    for view in (algorithm.view, *algorithm.reads):
        yield role, view, key
    for below, own, need, under in bench.placed_beneath(algorithm, key):
        yield from _asked(under, need.algorithm, below, own)


def _lacking(bench: Bench, algorithm: Algorithm) -> str:
    """What there is none of in the data, and what would do without it."""
    places: dict[tuple[str, str], list[str]] = {}
    for role, view, key in _asked(bench, algorithm, "", "algorithm"):
        if not len(bench.view(view)[0]) and key not in places.setdefault((role, view), []):
            places[role, view].append(key)
    return " and ".join(_none(role, view, keys) for (role, view), keys in places.items() if keys)


def _none(role: str, view: str, keys: list[str]) -> str:
    records = WORDS.get(view, view)
    if not role:
        return f"no {records} ({MEANT.get(view, view)})"
    stages = all(".needs." in key for key in keys)
    bases = " ".join(f"{key.removesuffix('.algorithm')}=null" for key in keys)
    without = (f"the base instead: {bases}" if stages else
               "reward=function and reward=classifier need none")
    return f"no {records} for the {role} model ({without})"


def told(found: list[Verdict]) -> list[str]:
    """The conclusions, a line each."""
    able = [one for one in found if one.why_not is None]
    lines = [f"{count:,} {WORDS.get(view, view)} to learn from; {_names(of)} can train on this"
             for (view, count), of in _by(able, lambda one: () if one.through else (one.view, one.records)).items()]
    lines += [f"{_names(of)}: {count:,} prompts, with a {' and a '.join(through)} model that these data train first"
              for (through, count), of in
              _by(able, lambda one: (one.through, one.records) if one.through else ()).items()]
    lines += [f"{_names(of)} cannot: {reason[0]}"
              for reason, of in _by([one for one in found if one.why_not], lambda one: (one.why_not,)).items()]
    return lines


def _by(found: list[Verdict], key) -> dict[tuple, list[Verdict]]:
    groups: dict[tuple, list[Verdict]] = {}
    for one in found:
        if key(one):
            groups.setdefault(key(one), []).append(one)
    return groups


def _names(found: list[Verdict]) -> str:
    return ", ".join(one.method for one in found)
