"""Secrets of a configuration stay out of what a run writes.

A value is secret by its key's name (``data.api_key``, ``HF_TOKEN``) or because it was read from the environment
(``${oc.env:…}``). Hydra writes its configuration files by itself before a job starts; the callback masks them again.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

MASK = "***"
SHORTEST = 6  # shorter values are masked at their key only: they may stand anywhere in a text by chance
NAMES = re.compile(r"(api|access|auth|private|hub|hf)?(key|token|password|passwd|passphrase|secret|credential)|"
                   r"(keys|passwords|secrets|credentials|authorization)")
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*([^,}\s]*)")
OVERRIDE = re.compile(r"([+~]*[\w./@-]+)=(.*)", re.DOTALL)


def is_secret(key: str) -> bool:
    """Whether a key names a secret.

    Whole words decide: ``hf_token`` and ``apiKey`` do, ``max_new_tokens``, ``tokenizer`` and ``monkey`` do not.
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower()
    return any(NAMES.fullmatch(word) for word in re.split(r"[\W_]+", words))


class Mask:
    """The secrets of one config, for masking them in it and in everything else."""

    def __init__(self, config: DictConfig):
        self.values: set[str] = set()
        # resolved plain data, masked; what cannot be resolved stays as written
        self.config = self._walk(config, secret=False)
        self._found = re.compile("|".join(map(re.escape, sorted(self.values, key=len, reverse=True))) or r"(?!)")
        self.config = self.hide(self.config)

    def _walk(self, node: Any, secret: bool) -> Any:
        if isinstance(node, DictConfig) and not node._is_none():
            raw = OmegaConf.to_container(node, resolve=False)
            return {str(key): self._child(node, key, item, secret or is_secret(str(key))) for key, item in raw.items()}
        if isinstance(node, ListConfig) and not node._is_none():
            raw = OmegaConf.to_container(node, resolve=False)
            return [self._child(node, index, item, secret) for index, item in enumerate(raw)]
        if OmegaConf.is_config(node):
            return None
        if isinstance(node, float) and not math.isfinite(node):
            return str(node)  # what is written is strict JSON
        if not secret or node is None or node == "???":
            return node
        if len(str(node)) >= SHORTEST:
            self.values.add(str(node))
        return MASK

    def _child(self, node: DictConfig | ListConfig, key: Any, raw: Any, secret: bool) -> Any:
        variables = ENVIRONMENT.findall(raw) if isinstance(raw, str) else []
        # beside the whole value, what was read may stand elsewhere by itself
        self.values |= {value for name in variables if len(value := os.environ.get(name, "")) >= SHORTEST}
        return self._walk(_value(node, key, raw), secret or bool(variables))

    def text(self, text: str) -> str:
        """The text without the secrets' values."""
        return self._found.sub(MASK, text)

    def override(self, item: str) -> str:
        """A command-line override without its secrets."""
        match = OVERRIDE.fullmatch(item)
        hidden = match and (is_secret(match[1]) or ENVIRONMENT.search(match[2]))
        return f"{match[1]}={MASK}" if hidden else self.text(item)

    def hide(self, value: Any) -> Any:
        """Plain data of any other origin without the secrets' values; its keys decide nothing."""
        if isinstance(value, dict):
            return {self.text(key) if isinstance(key, str) else key: self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        return self.text(value) if isinstance(value, str) else value

    def rewrite(self, path: Path) -> None:
        """Mask a YAML file that Hydra wrote, whole or not at all."""
        written = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        masked = self._file(written)
        if masked == written:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(masked)), encoding="utf-8")
        temporary.replace(path)

    def _file(self, value: Any, secret: bool = False) -> Any:
        if isinstance(value, dict):
            return {key: self._file(item, secret or is_secret(str(key))) for key, item in value.items()}
        if isinstance(value, list):
            return [self._file(item, secret) for item in value]
        if value is None or not (secret or isinstance(value, str)):
            return value
        if secret:
            return MASK
        if OVERRIDE.fullmatch(value):  # one override, or the several of hydra.job.override_dirname
            return ",".join(map(self.override, re.split(r",(?=[\w./@-]+=)", value)))
        return MASK if ENVIRONMENT.search(value) else self.text(value)


def _value(node: DictConfig | ListConfig, key: Any, raw: Any) -> Any:
    try:
        return node[key]
    except OmegaConfBaseException:  # no value yet, or an interpolation that leads nowhere
        return raw


class LogFilter(logging.Filter):
    """Masks a record's message and traceback."""

    def __init__(self, mask: Mask):
        super().__init__()
        self.mask = mask

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.mask.text(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = self.mask.text(logging.Formatter().formatException(record.exc_info))
        return True


class MaskCallback(Callback):
    """Masks what Hydra has written, before a job runs, and what is logged while it runs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # the sweeper writes its file after this and may fail to compose a job: then no later callback is called
        atexit.register(_mask_files, Mask(_own(config)), [Path(config.hydra.sweep.dir) / "multirun.yaml"])

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        mask = Mask(_own(config))
        files = [Path(config.hydra.sweep.dir) / "multirun.yaml"] if config.hydra.mode.name == "MULTIRUN" else []
        if config.hydra.output_subdir is not None:
            folder = Path(config.hydra.runtime.output_dir) / config.hydra.output_subdir
            files += [folder / name for name in ("config.yaml", "overrides.yaml", "hydra.yaml")]
        _mask_files(mask, files)
        for handler in logging.getLogger().handlers:
            handler.addFilter(LogFilter(mask))


def _own(config: DictConfig) -> DictConfig:
    """The project's part of Hydra's config."""
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


def _mask_files(mask: Mask, files: list[Path]) -> None:
    for path in files:
        if path.is_file():
            mask.rewrite(path)
