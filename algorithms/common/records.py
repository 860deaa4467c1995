"""Where a mapper finds what it returns: ``Record``, and ``BadRow`` for a row that cannot be used."""

from .data.records import BadRow, Record

__all__ = ["BadRow", "Record"]
