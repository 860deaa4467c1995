"""Why a command line was refused, one line each: in our words where they are certain, else in Hydra's own.

Groups and choices are looked for where Hydra looks: in ``conf``, ``--config-dir``, ``hydra.searchpath`` and plugins.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..support.errors import ConfigError, meant

LAUNCHERS, RAY = "'.[launchers]' -c constraints.txt", "'.[ray]', in an environment of its own"
EXTRAS = {  # Hydra's plugins that an installation may have: group → choice → what installs it
    "hydra/launcher": {"joblib": LAUNCHERS, "submitit_local": LAUNCHERS, "submitit_slurm": LAUNCHERS, "ray": RAY},
    "hydra/sweeper": {"optuna": LAUNCHERS},
    "hydra/sweeper/sampler": dict.fromkeys(("tpe", "random", "cmaes", "nsgaii", "grid"), LAUNCHERS),
}
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
KEY = re.compile(r"(~|\+{1,2})?[\w./@:-]+")
LISTED = (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP)


def explain_overrides(arguments: list[str], config_folder: str, error: Exception | None = None) -> list[str]:
    """Messages for a command line that Hydra has refused with ``error``; none where nothing is known to be wrong."""
    asked, more = get_args_parser().parse_known_args(arguments)
    overrides = [*asked.overrides, *more]
    if asked.config_dir is not None and not Path(asked.config_dir).is_dir():
        return [f"--config-dir: found no folder {asked.config_dir}; expected a folder with choices of your own, as "
                "data/NAME.yaml; fix: --config-dir FOLDER"]
    if told := [message for item in overrides if (message := _unreadable(item, asked.multirun))]:
        return told
    if str(error).startswith("Ambiguous value"):
        return [message for item in overrides if (message := _several(item))]
    if asked.config_name is None and asked.config_path is None:
        try:
            with initialize_config_dir(config_folder, version_base="1.3"):
                told = _Search(asked.config_dir, overrides).messages()
        except (HydraException, OmegaConfBaseException):  # something else is wrong, which Hydra's own message says
            pass
    # all that Hydra refuses by a mere ValueError
    options = str(error).startswith(("Only one of --run", "The --resolve flag"))
    if not told and (options or isinstance(error, (HydraException, OmegaConfBaseException))):
        return [_in_hydras_words(error, overrides)]
    return told


def ordered(arguments: list[str]) -> list[str]:
    """The same command line with its overrides before its options, as argparse takes none after an option, and with
    quotes around text in letters beyond ASCII, of which Hydra reads none without."""
    asked, more = get_args_parser().parse_known_args(arguments)
    if unknown := [item for item in more if item.startswith("-")]:
        raise ConfigError(f"{unknown[0]}: found no such option; expected KEY=VALUE, or an option of Hydra; fix: "
                          "python run.py --hydra-help lists them")
    overrides = [*asked.overrides, *more]
    told = [_hydras_at_home(_in_any_script(item, asked.multirun)) for item in overrides]
    return [*told, *(item for item in arguments if item not in overrides)]


def _hydras_at_home(item: str) -> str:
    """An override of Hydra's own part, whose folders are made before any config is read, with ``~/`` written out."""
    override = _parsed(item) if item.startswith("hydra.") else None
    value = override.value() if override is not None and not override.is_sweep_override() else None
    if not isinstance(value, str) or not value.startswith("~/"):
        return item
    return f"{override.get_key_element()}={_quoted(os.path.expanduser(value))}"


# What Hydra cannot read


def _parsed(item: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(item)
    except HydraException:
        return None


def _unreadable(item: str, multirun: bool) -> str | None:
    """What to say of an override that Hydra's grammar has no reading of; None where it has."""
    key, equals, value = item.partition("=")
    if key and _parsed(item) is not None:
        return None
    if not (equals and KEY.fullmatch(key)):
        told = "no value" if KEY.fullmatch(key) else "no key that can be read"
        return f"{key or item}: found {told}; expected KEY=VALUE; fix: {key if told == 'no value' else 'KEY'}=VALUE"
    if _parsed(f"{key}=x") is None:
        dotted = key.replace("/", ".")
        fix = dotted if _parsed(f"{dotted}=x") else "KEY"
        return (f"{key}: found a key that Hydra cannot read; expected GROUP=CHOICE, or dots alone between keys; fix: "
                f"{shlex.quote(f'{fix}={value}')}")
    fixed = _in_quotes(key, value, multirun)
    fixed = f"{key}={_quoted(value)}" if _parsed(fixed) is None else fixed
    return (f"{key}: found {value!r}, which Hydra cannot read as it stands; expected text in quotes; "
            f"fix: {shlex.quote(fixed)}")


def _in_quotes(key: str, value: str, multirun: bool) -> str:
    return f"{key}={','.join(map(_readable, _parts(value) if multirun else [value]))}"


def _in_any_script(item: str, multirun: bool) -> str:
    """An override in quotes where letters beyond ASCII are all that Hydra refuses in it, and its meaning is certain."""
    key, _, value = item.partition("=")
    if value.isascii() or "(" in value:  # brackets are of a function
        return item
    latin = _parsed(f"{key}={BEYOND_ASCII.sub('x', value)}")
    if _parsed(item) is not None or latin is None or (latin.is_sweep_override() and not multirun):
        return item
    fixed = _in_quotes(key, value, multirun)
    return item if _parsed(fixed) is None else fixed


def _several(item: str) -> str | None:
    """What to say of an override with several values; None where it has one."""
    if (override := _parsed(item)) is None or override.value_type != ValueType.SIMPLE_CHOICE_SWEEP:
        return None
    key, _, value = item.partition("=")
    listed, text = shlex.quote(f"{key}=[{value}]"), shlex.quote(f"{key}={_quoted(value)}")
    fixes = [f"{text} for one text", f"{listed} for a list", "-m for a run of each"]
    if "." not in key or all(isinstance(one, int | float) for one in override.value().list):
        fixes = [fixes[2], *fixes[:2]]  # choices, seeds and numbers are rather swept than a file's name
    return f"{key}: found several values, {value!r}, for one run; expected one; fix: {', or '.join(fixes)}"


def _readable(value: str) -> str:
    """The same value with quotes where Hydra needs them: around the texts of a list or mapping, or around all of it."""
    value = value.strip()
    if value[:1] == "[" and value[-1:] == "]":
        return f"[{','.join(map(_readable, _parts(value[1:-1])))}]"
    if value[:1] == "{" and value[-1:] == "}":
        pairs = (part.partition(":") for part in _parts(value[1:-1]))
        return "{%s}" % ", ".join(f"{key.strip()}: {_readable(item)}" for key, _, item in pairs)
    value = os.path.expanduser(value) if value.startswith("~/") else value
    return value if (read := _parsed(f"x={value}")) and not read.is_sweep_override() else _quoted(value)


def _parts(text: str) -> list[str]:
    """Cut at the commas outside brackets and quotes."""
    return re.findall(r"""(?:\[[^\]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,])+""", text)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


# What is not there


class _Search:
    """The overrides of a command line that can be read, beside what Hydra finds of them."""

    def __init__(self, config_dir: str | None, overrides: list[str]):
        self.loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create().parse_overrides(overrides)
        folders = [] if config_dir is None else [os.path.abspath(config_dir)]
        for one in parsed:
            if one.key_or_group == "hydra.searchpath" and isinstance(one.value(), list):
                folders += one.value()
        quoted = ",".join(QuotedString(str(folder), Quote.double).with_quotes() for folder in folders)
        self.path = [f"hydra.searchpath=[{quoted}]"] if folders else []
        self.groups: dict[str, list[str]] = {}  # as it is overridden, with its + and package → choices
        self.keys: list[str] = []
        self.others: list[str] = []  # what adds and removes keys
        for one in parsed:
            name = one.get_key_element()
            if one.key_or_group == "hydra.searchpath":
                continue
            if one.type is not OverrideType.DEL and ("/" in one.key_or_group or self.options(one.key_or_group, None)):
                self.groups[name] = _values(one)
            elif one.type is OverrideType.CHANGE:
                self.keys.append(name)
            elif not one.is_sweep_override():
                self.others.append(one.input_line)

    def options(self, group: str, kind: ObjectType | None) -> list[str]:
        return self.loader.get_group_options(group, results_filter=kind, config_name="config", overrides=self.path)

    def choices(self, group: str) -> list[str]:
        """The choices of a group, those in its folders too."""
        deeper = [f"{folder}/{choice}" for folder in self.options(group, ObjectType.GROUP)
                  for choice in self.choices(f"{group}/{folder}")]
        return sorted({*self.options(group, ObjectType.CONFIG), *deeper})

    def messages(self) -> list[str]:
        return self._no_choices() or self._no_keys()

    def _no_choices(self) -> list[str]:
        messages, defaults = [], compose("config", self.path, return_hydra_config=True).hydra.runtime.choices
        for name, given in self.groups.items():
            group = name.lstrip("+").split("@")[0]
            choices = self.choices(group)
            absent = {choice: EXTRAS[group][choice] for choice in given if choice in EXTRAS.get(group, {})
                      and choice not in choices}
            messages += [f"{name}: found {choice!r}, which is not installed; expected one of "
                         f"{', '.join(choices) or 'those that are'}; fix: pip install -e {extra}"
                         for choice, extra in absent.items()]
            if absent:
                continue
            allowed = [*choices, "null"] if defaults.get(name, "") is None else choices
            if not choices:
                messages.append(_no_group(name, group, self.loader, self.path))
                continue
            messages += [f"{name}: found {choice!r}; {meant(choice, choices)}expected one of {', '.join(choices)}"
                         for choice in given if choice not in allowed]
        return messages

    def _no_keys(self) -> list[str]:
        """Messages for the first combination of the groups' choices that lacks a key."""
        groups = {name: given for name, given in self.groups.items() if given}
        firsts = [f"{name}={given[0]}" for name, given in groups.items()]
        first = compose("config", [*self.path, *self.others, *firsts], return_hydra_config=True)
        params = first.hydra.sweeper.get("params") or {}  # an experiment may sweep by itself
        swept = {name: str(value).split(",") for name, value in params.items()
                 if self.options(name.split("@")[0], None)}
        groups = {**swept, **groups}
        for combination in itertools.product(*groups.values()):
            chosen = [f"{name}={choice}" for name, choice in zip(groups, combination)]
            config = compose("config", [*self.path, *self.others, *chosen], return_hydra_config=True)
            if found := [message for key in self.keys if (message := self._unchosen(config, key) or
                                                          self._absent(config, key))]:
                several = any(len(choices) > 1 for choices in groups.values())
                return [f"{message} (with {' '.join(chosen)})" if several else message for message in found]
        return []

    def _unchosen(self, config: DictConfig, key: str) -> str | None:
        """What to say of a key of a group that has no choice by default, such as ``judge``."""
        group = key.partition(".")[0]
        if group in config or config.hydra.runtime.choices.get(group, "") is not None:
            return None
        choices = self.choices(group)
        return f"{key}: found no {group} chosen; expected one of {', '.join(choices)}; fix: {group}={choices[0]}"

    def _absent(self, config: DictConfig, key: str) -> str | None:
        """What to say of a key that the config does not have, a key of files too; None where it does."""
        told, files = _unknown(config, key), "data=file"
        if told and key.startswith("data.") and _unknown(compose("config", [*self.path, files]), key) is None:
            return f"{told}; fix: {files} {key}=…"
        return told


def _no_group(name: str, group: str, loader: ConfigLoader, path: list[str]) -> str:
    """path: the overrides by which Hydra looks in further folders."""
    parent = group.rpartition("/")[0]
    siblings = loader.get_group_options(parent, results_filter=ObjectType.GROUP, config_name="config", overrides=path)
    there = ", ".join(f"{parent}/{one}" for one in siblings) or "those that --help lists"
    return f"{name}: found no such group; expected one of {there}; fix: correct the name"


def added_in_vain(choices: Mapping[str, str | None], keys: Iterable[str], overrides: list[str]) -> str | None:
    """What to say of a group that +GROUP=CHOICE adds and that nothing reads; None where there is none.

    choices: group, as it is overridden → choice; keys: those at the top of the config; overrides: of Hydra's own
    configuration. Hydra makes a key of a group that it does not find, and takes one that is known under a package of
    its own for another group.
    """
    for key in keys:
        if "/" in str(key):
            return _no_group(f"+{key}", str(key).split("@")[0], GlobalHydra.instance().config_loader(), overrides)
    packaged = {name.partition("@")[0]: name for name in choices if name.endswith("@_global_")}
    for name, choice in choices.items():
        read = packaged.get(name.partition("@")[0], name)
        if name != read:
            return (f"+{name}: found {choice}, which nothing reads beside {read}={choices[read]}; expected "
                    f"{read}=CHOICE; fix: {read}={choice}")
    return None


def _values(override: Override) -> list[str]:
    """The choices that an override of a group names; none where they are made by Hydra."""
    if override.is_sweep_override():
        values = list(override.sweep_iterator()) if override.value_type in LISTED else []
    else:
        values = [override.value()]
    return ["null" if value is None else str(value) for value in values if "${" not in str(value)]


def _unknown(config: DictConfig, key: str) -> str | None:
    """What to say of a key that the config does not have; None where it does."""
    node, walked = config, []
    for part in key.split("."):
        if node is None:
            return f"{key}: found no such key; {'.'.join(walked)} is null; fix: +{key}=…"
        if not isinstance(node, DictConfig):
            return f"{key}: found no such key; {'.'.join(walked)} is a single value"
        if part not in list(node):  # "in" denies what has no value yet
            names = sorted(str(name) for name in node if name != "_target_" and (walked or name != "hydra"))
            there = f"one of {', '.join(names)}" if names else f"none in {'.'.join(walked)}"
            return f"{'.'.join([*walked, part])}: found no such key; {meant(part, names)}expected {there}"
        walked.append(part)
        node = None if OmegaConf.is_missing(node, part) else node[part]
    return None


def overruled(choices: Mapping[str, str | None], folders: list[Path], overrides: list[str]) -> list[str]:
    """What chosen files override in vain, because another chosen file's override of the same group counts.

    choices: group, as it is overridden → choice; folders: where Hydra found them; overrides: those of the command
    line, which are there to count.
    """
    given = {one.get_key_element().lstrip("+") for item in overrides if (one := _parsed(item))}
    wishes: dict[str, dict[str, str]] = {}  # group → file → the choice that it asks for
    for name, choice in choices.items():
        group = name.split("@")[0]
        for path in [folder / group / f"{choice}.yaml" for folder in folders]:
            if path.is_file():
                for key, wanted in _overriding(path):
                    wishes.setdefault(_canonical(key, group), {})[f"{group}/{choice}"] = wanted
                break
    messages = []
    for name, files in wishes.items():
        counts = choices.get(name)
        for file, wanted in files.items():
            if name in choices and name not in given and wanted != counts:
                winner = next((f" in {other}" for other, wish in files.items() if wish == counts), "")
                messages.append(f"{name}: found {wanted} in {file} and {counts}{winner}, which counts; expected one of "
                                f"them; fix: {name}={counts} or {name}={wanted}")
    return messages


def _overriding(path: Path) -> Iterator[tuple[str, str]]:
    """(group, choice) of what a file's defaults list overrides."""
    loaded = OmegaConf.load(path)
    for entry in (loaded.get("defaults") or []) if isinstance(loaded, DictConfig) else []:
        for key in entry if isinstance(entry, DictConfig) else []:
            if str(key).startswith("override "):
                yield str(key).removeprefix("override ").strip(), str(entry[key])


def _canonical(key: str, group: str) -> str:
    """A group of a defaults list as it is overridden: from the root, without the package that it has anyway."""
    name, at, package = key.partition("@")
    name = name[1:] if name.startswith("/") else f"{group}/{name}"
    return name if not at or package.removeprefix("_global_.") == name.replace("/", ".") else f"{name}@{package}"


# What only Hydra knows


def unreadable_yaml(error: yaml.MarkedYAMLError) -> str:
    """What to say of a file that is no YAML, or has a key twice."""
    mark = error.problem_mark or error.context_mark
    place = f"{mark.name}:{mark.line + 1}" if mark else "YAML"
    told = ", ".join(part for part in (error.context, error.problem) if part)
    return (f"{place}: found what YAML cannot read ({_one_line(told)}); expected KEY: VALUE in every line, indented by "
            "spaces; fix: correct that line or the one before")


def _in_hydras_words(error: Exception, overrides: list[str]) -> str:
    """Hydra's message and its cause as one line, under the key or file that they name."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else ""
    told = ": ".join(line for text in (error, cause) if (line := _one_line(str(text))))
    place = re.match(r"In '([^']+)': ", told)
    told = told[place.end():] if place else told
    late = re.match(r"Could not override '([^']+)'\. Did you mean to override \1\?", told)
    if late:
        return (f"{place[1] if place else late[1]}: found an override of {late[1]}, which is decided before this file "
                f"is read; expected it in an experiment; fix: take it out here, and {late[1]}=CHOICE or an experiment "
                "of your own")
    near = re.match(r"Could not override '([^']+)'\. Did you mean to override (?:one of )?([^?,]+)[?,]", told)
    if near:
        choice = next((item.partition("=")[2] for item in overrides if item.startswith(f"{near[1]}=")), "CHOICE")
        return (f"{place[1] if place else near[1]}: found an override of {near[1]}, and no such group in the defaults; "
                f"expected {near[2]}; fix: {f'override /{near[2]}: CHOICE' if place else f'{near[2]}={choice}'}")
    twice = re.match(r"Multiple values for ([\w/@.]+)\.|([\w/@.]+) appears more than once", told)
    again = twice and next((item for item in overrides if item.startswith(f"+{twice[1] or twice[2]}=")), None)
    if again:
        return (f"{again.partition('=')[0]}: found a second choice of a group that has one; expected it in the place "
                f"of that; fix: {again[1:]}")
    lost = re.fullmatch(r"Could not find '([\w./-]+)/([^/']+)'(?: Available options in .*)?", told)
    if lost:
        return (f"{lost[1]}: found no choice {lost[2]}, which another choice asks for; expected "
                f"{lost[1]}/{lost[2]}.yaml in conf, or in the folder of --config-dir; fix: write it, or "
                f"{lost[1].split('/')[0]}=CHOICE")
    key = place or re.search(r"override '?[+~]*([\w./@-]+)(?==)", told)
    return (f"{key[1] if key else 'command line'}: found what Hydra refuses: {told.rstrip('.')}; expected a "
            "configuration that it can compose; fix: python run.py --help lists the groups and choices, --cfg job the "
            "keys")


def _one_line(text: str) -> str:
    """Without pointers to a manual and to places in Hydra's own objects."""
    dropped = re.compile(r"\^|See https?:|Config search path:|provider=|(full_key|object_type|reference_type)[:=]")
    lines = (line.strip() for line in text.splitlines())
    return " ".join(line for line in lines if line and not dropped.match(line))
