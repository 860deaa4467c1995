"""Mappers that take nothing into account but their rows, as a user writes them."""

from algorithms.common.records import Record


def to_record(row, word="?"):
    return Record(row["prompt"] + word, [row["chosen"], row["rejected"]], [1.0, 0.0], {"own": len(row["prompt"])})


def under(row, key):
    return to_record(row, key)


def unasked(row):
    return to_record(row)


def shouting(row):
    return to_record(row, "!")
