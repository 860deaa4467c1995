"""The style of the pages that the project writes: in one file, so that they look alike."""

from pathlib import Path


def page_style() -> str:
    """A style sheet for headings, texts, tables, figures and alarms, in light and dark, on phones and on paper."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")
