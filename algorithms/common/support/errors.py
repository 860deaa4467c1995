"""Errors that are the user's to mend: one message on stderr, no traceback, exit status 2."""

import difflib
import errno
import os
import re
from collections.abc import Sequence

_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(Exception):
    """What was found, what was expected, how to fix it. Raised before any weights load where that is possible."""


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """Input data that cannot be used: ``PATH:LINE: FIELD: found …; expected …; fix: …``.

    refused: where it is for rows, all of them (a ``records.refused.RefusedRows``).
    """

    def __init__(self, message: str, refused=None):
        super().__init__(message)
        self.refused = refused


class TrainingError(UserError):
    """Training that cannot go on (NaN or infinite loss): names the step, the records and the last good checkpoint."""


class Stopped(UserError):
    """A job that was ended from outside, or never began: nothing is wrong with it, and the same command goes on."""


def beneath(error: ConfigError, key: str) -> ConfigError:
    """An error of a model, as one of the model whose settings stand beneath another key."""
    return ConfigError(re.sub(r"\bmodel\.(?!safetensors)", f"{key}.model.", str(error)))


def meant(name: str, names: Sequence[str]) -> str:
    """The question whether a near name was meant, with a space after it; empty where none is near."""
    folder = "".join(name.rpartition("/")[:2])  # what two names have in common by it makes them no nearer
    beside = [one.removeprefix(folder) for one in names if one.startswith(folder)]
    near = difflib.get_close_matches(name.removeprefix(folder), beside, 1, 0.75)
    return f"did you mean {folder}{near[0]}? " if near else ""


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or a share of it, is full."""
    # safetensors and torch wrap the system's error in their own, which carries only its text.
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_disk(error: BaseException, doing: str, kept: str = "", key: str = "stages.folder=PATH") -> UserError | None:
    """What to raise for an error that says that a disk is full; None for any other.

    doing: what was being written, and where. kept: what is not lost. key: what moves it to another disk; empty where
    nothing does.
    """
    if not is_full(error):
        return None
    elsewhere = f", or set {key} to another disk" if key else ""
    return UserError(f"disk full while {doing} ({error}){kept and f'; {kept}'}; fix: free some space{elsewhere}, and "
                     "run the same command again")


def raised_in(error: Exception) -> str:
    """What a user's function raised, for whom called it: its type, message and place in the function."""
    said = " ".join(str(error).split())[:200]
    trace = error.__traceback__.tb_next
    # Hydra's own frames lie around a _target_
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("hydra."):
        trace = trace.tb_next
    place = "" if trace is None else f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})"
    return f"{type(error).__name__}{': ' * bool(said)}{said}{place}"
