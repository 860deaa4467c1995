"""Mappers for files whose rows need more than column names: ``data.mapper={_target_: …, _partial_: true}``.

A mapper takes one raw row (a dict) and returns a record or a list of records. It may raise ``columns.BadRow``; a
KeyError, TypeError or the like is reported as a bad row too.
"""

from algorithms.common.record import Messages, Record

_ROLES = {"prompter": "user", "assistant": "assistant"}
_GSM_SOURCES = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def oasst_tree(row: dict) -> list[Record]:
    """OpenAssistant conversation trees: one ranking for each prompter message whose two or more replies are all ranked.

    Rank 0 is the best, so a reply's score is −rank. Messages with a reply that has no rank give nothing.
    """
    return list(_rankings(row["prompt"], [], row["message_tree_id"]))


def _rankings(root: dict, path: Messages, tree: str):
    stack = [(root, path)]
    while stack:
        node, path = stack.pop()
        path = [*path, {"role": _ROLES[node["role"]], "content": node["text"]}]
        replies = node["replies"]
        if node["role"] == "prompter" and len(replies) >= 2 and all(reply.get("rank") is not None for reply in replies):
            scores = [-float(reply["rank"]) for reply in replies]
            meta = {"tree": tree, "message": node["message_id"]}
            yield Record(path, [reply["text"] for reply in replies], scores, meta)
        stack += [(reply, path) for reply in reversed(replies)]


def gsm_solutions(row: dict) -> Record:
    """OpenAI's GSM8K model solutions: four responses to a question, scored 1.0 if correct, else 0.0."""
    solutions = [row[source] for source in _GSM_SOURCES]
    scores = [float(solution["is_correct"]) for solution in solutions]
    return Record(row["question"], [solution["solution"] for solution in solutions], scores,
                  {"ground_truth": row["ground_truth"]})
