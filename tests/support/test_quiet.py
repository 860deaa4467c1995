"""Libraries' notices to programmers are not shown; the user's own, and what says that something is wrong, are."""

import sys
import warnings

import pytest

from algorithms.common.support.quiet import quieten


def shown(category, module) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        quieten()
        warnings.warn_explicit("told", category, "file.py", 1, module=module)
    return bool(caught)


@pytest.mark.parametrize("category, module, expected", [
    (FutureWarning, "transformers.modeling_utils", False), (FutureWarning, "peft", False),
    (DeprecationWarning, "torch.utils.checkpoint", False), (FutureWarning, "my_reward", True),
    (FutureWarning, "algorithms.dpo", True), (FutureWarning, "torchmetrics.text", True),
    (UserWarning, "transformers.modeling_utils", True), (RuntimeWarning, "torch.nn", True)])
def test_only_libraries_notices_of_what_they_rename_are_silent(category, module, expected, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])
    assert shown(category, module) is expected
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    assert shown(category, module), "asked for by python -W"
