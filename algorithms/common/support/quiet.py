"""What libraries say to those who program with them, and not to whoever starts a run."""

from __future__ import annotations

import sys
import warnings

# what will be renamed or removed; whether a library is wrongly used (UserWarning, RuntimeWarning) is shown
CATEGORIES = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)
LIBRARIES = ("transformers", "huggingface_hub", "peft", "torch", "bitsandbytes", "datasets", "tokenizers", "hydra",
             "omegaconf")


def quieten() -> None:
    """Show no warnings of these categories that stand in a library's own code; python -W or PYTHONWARNINGS shows them.

    What a function of the user's warns of, and what this project does, stays.
    """
    if sys.warnoptions:
        return
    for category in CATEGORIES:
        warnings.filterwarnings("ignore", category=category, module=rf"({'|'.join(LIBRARIES)})(\.|$)")
