"""Plain texts that nothing here trains on: what a base could before, to see how much of it training took away."""

import hashlib
from collections.abc import Iterator
from itertools import islice

from ..support.errors import ConfigError


def first_texts(path: str, count: int) -> list[str]:
    """The first texts of a file in UTF-8, blank lines between them. ConfigError, of eval.texts, where there is none."""
    def refuse(found: str) -> ConfigError:
        return ConfigError(f"eval.texts: found {found}; expected a file of plain text in UTF-8, blank lines between "
                           "texts; fix: eval.texts=FILE")

    try:
        with open(path, encoding="utf-8") as file:
            texts = list(islice(_paragraphs(file), count))
    except OSError as error:
        raise refuse(f"{path}, which cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise refuse(f"{path}, which is not in UTF-8") from error
    if not texts:
        raise refuse(f"no text in {path}")
    return texts


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    found: list[str] = []
    for line in lines:
        if line.strip():
            found.append(line)
        elif found:
            yield "".join(found).strip()
            found = []
    if found:
        yield "".join(found).strip()


def text_digest(text: str) -> str:
    """Which text it is, in 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
