"""What the command lines over finished runs share: their folders, and errors in words with exit status 2."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import wraps

from algorithms.common.support.errors import UserError

from .results_read import ReportError
from .tables import plain

Main = Callable[[Sequence[str] | None], int]


def over_folders(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of ``python -m benchmarks.NAME FOLDER…``."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="searched for result.json, at any depth")
    return parser


def in_words(main: Main) -> Main:
    """A command line that ends with 2, and says why, where its folders hold nothing that it can show."""
    @wraps(main)
    def told(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except (ReportError, UserError, OSError) as error:
            print(plain(str(error)), file=sys.stderr)
            return 2

    return told
