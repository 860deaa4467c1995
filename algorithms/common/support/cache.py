"""Where what is kept between runs lies, unless a setting says otherwise."""

import os
from pathlib import Path


def user_cache() -> Path:
    """The project's folder in the user's cache folder, as the XDG base directory specification finds it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset, empty or relative: the specification says to use the default
        cache = Path.home() / ".cache"
    return cache / "preference-zoo"
