"""What libraries say to those who program with them, and not to whoever starts a run."""

from __future__ import annotations

import os
import sys
import warnings

# what will be renamed or removed; whether a library is wrongly used (UserWarning, RuntimeWarning) is shown
CATEGORIES = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)
LIBRARIES = ("transformers", "huggingface_hub", "peft", "torch", "bitsandbytes", "datasets", "tokenizers", "hydra",
             "trl", "accelerate", "omegaconf")


def quieten() -> None:
    """Show no warnings of these categories that stand in a library's own code; python -W or PYTHONWARNINGS shows them.

    What a function of the user's warns of, and what this project does, stays.
    """
    if sys.warnoptions:
        return
    for category in CATEGORIES:
        warnings.filterwarnings("ignore", category=category, module=rf"({'|'.join(LIBRARIES)})(\.|$)")


def without_bars() -> None:
    """No bars of what the libraries load and download, if they are imported after this."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"    # transformers goes by it too
