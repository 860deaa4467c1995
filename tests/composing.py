"""Hydra reads and merges the same YAML files thousands of times in one suite: here each file and each merge once.

What is kept is copied before anyone writes to it, and made again where a file has changed. Overrides are applied anew
each time.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.plugins.config_source import ConfigResult, ConfigSource


def _stamp(sources: list, path: str) -> tuple:
    """What tells one state of the files of this name from another; packages and plugins' sources stay as they are."""
    found = []
    for source in sources:
        if source.scheme() == "file":
            file = Path(source.path) / (path if path.endswith((".yaml", ".yml")) else f"{path}.yaml")
            try:
                stat = os.stat(file)
                found.append((source.path, stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                found.append((source.path, None))
        else:
            found.append((source.scheme(), source.path))
    return path, *found


class Copies:
    """A repository whose files may be written to."""

    def __init__(self, repository: IConfigRepository):
        self._repository = repository

    def load_config(self, config_path: str) -> ConfigResult | None:
        return copy.deepcopy(self._repository.load_config(config_path))

    def get_schema_source(self) -> ConfigSource:
        return self._repository.get_schema_source()


def keep_compositions() -> None:
    """From here on, in this process."""
    load, merge = ConfigRepository.load_config, ConfigLoaderImpl._compose_config_from_defaults_list
    mapped, choices = defaults_list._create_interpolation_map, {}
    loaded, merged = {}, {}

    def load_once(self, config_path):
        key = _stamp(self.sources, config_path)
        if key not in loaded:
            loaded[key] = load(self, config_path)
        return loaded[key]  # the defaults list is made of it and does not write to it

    def merge_once(self, defaults, repo):
        sources = repo.get_sources()
        key = tuple((_stamp(sources, one.config_path or ""), one.parent, one.package, one.is_self, one.primary)
                    for one in defaults)
        if key not in merged:
            merged[key] = merge(self, defaults, Copies(repo))
        return copy.deepcopy(merged[key])

    def mapped_once(overrides, defaults, self_added):  # what ${…} in a defaults list may name; nobody writes to it
        key = repr(overrides.known_choices), repr(defaults), self_added
        if key not in choices:
            choices[key] = mapped(overrides, defaults, self_added)
        return choices[key]

    defaults_list._create_interpolation_map = mapped_once
    ConfigRepository.load_config = load_once
    ConfigLoaderImpl._compose_config_from_defaults_list = merge_once
