"""Mappers for files whose rows need more than column names: ``data.mapper={_target_: …, _partial_: true}``.

    from algorithms.common.records import BadRow, Record, Skipped

    def to_record(row):
        if row["votes"] is None:
            raise BadRow("null", "votes", "null", "two numbers")
        return Record([{"role": "user", "content": row["question"]}], [row["a"], row["b"]], row["votes"])

A mapper takes one raw row (a dict, all texts in CSV and TSV), or with ``data.group`` the list of a group's rows. It
returns a record or a list of records, the empty list where the row has none (counted as such; None is an error). A
prompt is text or turns with the roles system, user and assistant; higher scores are better; meta is free. What it
leaves out of a row is a ``Skipped(what)`` in the list, counted by `what`. A tie between two responses, which a file
read by columns may not hold, is kept: nothing learns an order from it.

``BadRow(reason, field, found, expected, fix)`` says why a row cannot be used. Such rows are counted by `reason`; they
end the run, or with ``data.on_bad_row=drop`` are left out. Any other exception makes a bad row too, and so does a
record that is not as above, has no text in its prompt or a response, or twice the same response in a pair.
"""

import math
import random
import re
from contextlib import contextmanager
from typing import Any

from .readers import show
from .record import Messages, Record, answered, parse_transcript
from .values import BadRow, Skipped, cell, kind, label_of, last_turn, list_of, messages_of, number_of, text_of

_ROLES = {"prompter": "user", "assistant": "assistant"}
_GSM_SOURCES = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
_WINNERS = {"model_a": [1.0, 0.0], "model_b": [0.0, 1.0], "tie": [0.5, 0.5], "tie (bothbad)": [0.5, 0.5],
            "both_bad": [0.5, 0.5]}
_VERDICTS = {"left": [1.0, 0.0], "right": [0.0, 1.0], "tie": [0.5, 0.5]}


def _text(row: Any, name: str) -> str:
    return text_of(cell(row, name), name)


def _number(row: Any, name: str) -> float:
    return number_of(cell(row, name), name)


def _list(row: Any, name: str, of: str) -> list:
    return list_of(cell(row, name), name, f"a list of {of}")


def _object(row: Any, name: str) -> dict:
    value = cell(row, name)
    if not isinstance(value, dict):
        raise BadRow("null" if value is None else "wrong type", name, kind(value), "an object")
    return value


@contextmanager
def _inside(place: str):
    """Names where in the row the field of a bad value is."""
    try:
        yield
    except BadRow as bad:
        bad.field = f"{place}.{bad.field}"
        raise


def _index(row: Any, name: str) -> int:
    """Which of two responses."""
    value = cell(row, name)
    if isinstance(value, bool) or value not in (0, 1):
        raise BadRow("null" if value is None else "unknown choice", name, show(value), "0 or 1")
    return int(value)


def _given(row: dict, *names: str) -> dict:
    """Those columns that are there, for a record's meta."""
    return {name: row[name] for name in names if name in row}


# ---- transcripts, comparisons


def hh_static(row: dict) -> Record:
    """A transcript up to and with its last ``\\n\\nAssistant:`` in `prompt`, the answers in `chosen` and `rejected`."""
    prompt = _text(row, "prompt")
    parsed = parse_transcript(prompt)
    if parsed is None or parsed[1].strip():
        raise BadRow("not a transcript", "prompt", f"text that ends with {show(prompt[-30:])}",
                     "turns marked \\n\\nHuman: and \\n\\nAssistant:, the mark of the answer last")
    return Record(parsed[0], [_text(row, name).removeprefix(" ") for name in ("chosen", "rejected")], [1.0, 0.0])


def summarize(row: dict) -> Record:
    """OpenAI's summary comparisons: Reddit posts, or news articles where `info` has no post.

    `choice` names the better summary; how sure the labeller was, and whose the summaries are, go to meta. The prompts'
    form is that of Stiennon et al. 2020 (arXiv 2009.01325); the summaries begin with the space that follows it.
    """
    info, summaries = _object(row, "info"), _list(row, "summaries", "two summaries")
    if len(summaries) != 2:
        raise BadRow("unequal lengths", "summaries", f"{len(summaries)} summaries", "two")
    with _inside("info"):
        if cell(info, "post") is None:
            prompt = f"Article:\n{_text(info, 'article')}\n\nTL;DR:\n"
        else:
            prompt = "".join((f"SUBREDDIT: r/{_text(info, 'subreddit')}\n\nTITLE: {_text(info, 'title')}\n\n",
                              f"POST: {_text(info, 'post')}\n\nTL;DR:"))
    texts = []
    for index, summary in enumerate(summaries):
        with _inside(f"summaries[{index}]"):
            texts.append(_text(summary, "text"))
    better, extra = _index(row, "choice"), row.get("extra")
    meta = {"confidence": None if extra is None else _object(row, "extra").get("confidence"),
            "policies": [summary.get("policy") for summary in summaries], **_given(row, "worker", "batch")}
    return Record(prompt, texts, [1.0 - better, float(better)], meta)


def webgpt(row: dict) -> Record:
    """OpenAI's WebGPT comparisons: two answers, their scores between −1 and 1 with the sum 0."""
    question, scores = _object(row, "question"), []
    with _inside("question"):
        asked = _text(question, "full_text")
    for name in ("score_0", "score_1"):
        scores.append(_number(row, name))
        if not -1 <= scores[-1] <= 1:
            raise BadRow("score out of range", name, f"{scores[-1]:g}", "a number between -1 and 1")
    return Record(asked, [_text(row, "answer_0"), _text(row, "answer_1")], scores, _given(question, "dataset", "id"))


def shp(row: dict) -> Record:
    """Stanford Human Preferences: two comments on a post, scored by their votes; `labels` is 1 where A is preferred."""
    scores = [_number(row, "score_A"), _number(row, "score_B")]
    first = label_of(cell(row, "labels"), "labels") == 1.0
    if not scores[1 - first] > scores[first]:
        raise BadRow("scores against label", "labels",
                     f"{'A' if first else 'B'} preferred, with scores {scores[0]:g} and {scores[1]:g}",
                     "more votes for the preferred comment")
    return Record(_text(row, "history"), [_text(row, "human_ref_A"), _text(row, "human_ref_B")], scores,
                  _given(row, "domain", "score_ratio"))


def safe_rlhf(row: dict, by: str = "better_response_id") -> Record:
    """PKU-SafeRLHF: two responses; the better one is named in the column `by`, safer_response_id for safety."""
    better = _index(row, by)
    responses = [_text(row, "response_0"), _text(row, "response_1")]
    return Record(_text(row, "prompt"), responses, [1.0 - better, float(better)],
                  _given(row, "is_response_0_safe", "is_response_1_safe"))


def arena(row: dict) -> Record:
    """Chatbot Arena: two conversations with the same questions, and which model won; a tie scores ½ each."""
    winner = cell(row, "winner")
    if not isinstance(winner, str) or winner not in _WINNERS:
        raise BadRow("unknown choice", "winner", show(winner), "one of " + ", ".join(_WINNERS))
    (prompt, first), (other, second) = (last_turn(messages_of(cell(row, name), name), name)
                                        for name in ("conversation_a", "conversation_b"))
    if prompt != other:
        raise BadRow("prompt not shared", "conversation_b", "other turns before the answer than in conversation_a",
                     "the same in both", "correct the row, or read single turns only: data.filter on the column turn")
    meta = _given(row, "winner", "model_a", "model_b", "language")
    return answered(prompt, [first, second], list(_WINNERS[winner]), meta)


def verdicts(row: dict, judge: str | None = "people") -> Record | list[Skipped]:
    """What task=vote and task=judge leave: two answers and which of them is better; a tie scores ½ each.

    judge: whose verdicts are read, those of JUDGE/NAME too; None: everybody's. A judge that was asked in both orders
    gives two records. A prompt that is an HH transcript becomes its turns.
    """
    outcome, author = _text(row, "outcome"), _text(row, "judge")
    if outcome not in (*_VERDICTS, "none"):
        raise BadRow("unknown choice", "outcome", show(outcome), "left, right, tie or none")
    if judge is not None and author != judge and not author.startswith(f"{judge}/"):
        return [Skipped("verdict of another judge")]
    if outcome == "none":
        return [Skipped("pair without a verdict")]
    prompt, answers = _text(row, "prompt"), [_text(row, "left_response"), _text(row, "right_response")]
    if not all(map(str.strip, answers)):
        return [Skipped("verdict on an empty answer")]
    if answers[0] == answers[1]:
        return [Skipped("verdict on twice the same answer")]
    parsed = parse_transcript(prompt)
    turns = prompt if parsed is None or parsed[1] else parsed[0]
    return Record(turns, answers, list(_VERDICTS[outcome]), _given(row, "judge", "left", "right", "at"))


# ---- rankings and ratings


def stack_exchange_score(upvotes: float, accepted: bool) -> float:
    """round(log2(1 + upvotes)), and 1 more if accepted; −1 for negative votes, accepted or not.

    Askell et al. 2021, arXiv 2112.00861, appendix; the order of its two rules is ours.
    """
    return -1.0 if upvotes < 0 else float(round(math.log2(1 + upvotes)) + accepted)


def stack_exchange(row: dict, pairs: int | None = 10) -> list[Record | Skipped]:
    """Stack Exchange questions with all their answers, each scored by `pm_score`,
    or by its upvotes where there is none.

    pairs: at most so many comparisons of a question, drawn by its text from those with unequal scores, each a record of
    its own; None: one record with all answers. Answers without text, or with that of one before, are left out.
    """
    question = _text(row, "question")
    answers, scores, skipped = _distinct(_list(row, "answers", "answers"))
    texts = [answer["text"] for answer in answers]

    def record(places) -> Record:
        votes = {"upvotes": [answers[i].get("upvotes") for i in places]} if "upvotes" in answers[places[0]] else {}
        meta = {**_given(row, "qid", "metadata"), **votes}
        return Record(question, [texts[i] for i in places], [scores[i] for i in places], meta)

    drawn = Record(question, texts, scores).strict_pairs
    if pairs is None:
        return skipped + ([record(range(len(answers)))] if drawn else [])
    if len(drawn) > pairs:
        drawn = sorted(random.Random(f"stack exchange/{question}").sample(drawn, pairs))
    return skipped + [record(pair) for pair in drawn]


def _distinct(answers: list) -> tuple[list[dict], list[float], list[Skipped]]:
    """The answers with a text of their own and their scores, and what is left out."""
    kept, skipped = {}, []
    for index, answer in enumerate(answers):
        with _inside(f"answers[{index}]"):
            text = None if answer is None else cell(answer, "text")
            if text is None or not text_of(text, "text").strip():
                skipped.append(Skipped("answer without text"))
            elif text in kept:
                skipped.append(Skipped("answer again"))
            else:
                kept[text] = answer, _answer_score(answer)
    return [answer for answer, _ in kept.values()], [score for _, score in kept.values()], skipped


def _answer_score(answer: Any) -> float:
    if "pm_score" in answer:
        return _number(answer, "pm_score")
    return stack_exchange_score(_number(answer, "upvotes"), label_of(cell(answer, "selected"), "selected") == 1.0)


def rated_responses(rows: list[dict], prompt: str, response: str, score: str) -> Record:
    """A group of rows that each rate one response to the same prompt; the arguments are the columns' names."""
    texts, scores = [], []
    for index, row in enumerate(rows):
        try:
            if _text(row, prompt) != _text(rows[0], prompt):
                raise BadRow("prompt not shared", prompt, "another prompt than in the group's first row", "the same")
            texts.append(_text(row, response))
            scores.append(_number(row, score))
        except BadRow as bad:
            bad.row = index
            raise
    return Record(_text(rows[0], prompt), texts, scores)


def oasst_tree(row: dict) -> list[Record | Skipped]:
    """OpenAssistant conversation trees: one ranking for each prompter message whose two or more replies are all ranked.

    Rank 0 is the best, so a reply's score is −rank. Messages with a reply that has no rank are left out and counted.
    """
    if "prompt" not in row and "parent_id" in row:
        raise BadRow("single message", "prompt", "one message in a row", "a whole tree in a row",
                     "read the file by data=oasst")
    name = _text(row, "message_tree_id")
    top = _object(row, "prompt")
    with _inside("prompt"):
        root = _message(top)
    stack = [(root, "prompt")]
    while stack:
        message, place = stack.pop()
        with _inside(place):
            replies = _list(message, "replies", "messages")
        message["replies"] = []
        for index, reply in enumerate(replies):
            with _inside(f"{place}.replies[{index}]"):
                reply = _message(reply)
                _check_reply(reply, message)
            message["replies"].append(reply)
            stack.append((reply, f"{place}.replies[{index}]"))
    return list(_rankings(root, [], name))


def _message(row: Any) -> dict:
    """One message of a tree, its values checked; `replies` as they are."""
    role = _text(row, "role")
    if role not in _ROLES:
        raise BadRow("unknown role", "role", show(role), "one of " + ", ".join(_ROLES))
    rank = None if row.get("rank") is None else number_of(row["rank"], "rank")
    if rank is not None and (rank < 0 or rank != int(rank)):
        raise BadRow("rank out of range", "rank", f"{rank:g}", "a whole number from 0, or null")
    return {"message_id": _text(row, "message_id"), "text": _text(row, "text"), "role": role, "rank": rank,
            "replies": row.get("replies")}


def _check_reply(reply: dict, parent: dict, row: int = 0):
    if reply["role"] == parent["role"]:
        raise BadRow("same role twice", "role", f"a reply by the {reply['role']} to himself", "the other role", row=row)


def oasst_messages(rows: list[dict]) -> list[Record | Skipped]:
    """The same from a tree's messages as rows of their own (``data.group=message_tree_id``), in any order."""
    nodes: dict[str, dict] = {}
    for index, row in enumerate(rows):
        try:
            if "message_id" not in row and "prompt" in row:
                raise BadRow("whole tree", "prompt", "a whole tree in a row", "one message in a row",
                             "read the file by data=oasst_tree")
            node = {**_message(row), "replies": [], "row": index}
            node["parent"] = None if cell(row, "parent_id") is None else _text(row, "parent_id")
            if node["message_id"] in nodes:
                raise BadRow("message twice", "message_id", show(node["message_id"]) + " again", "every message once")
        except BadRow as bad:
            bad.row = index
            raise
        nodes[node["message_id"]] = node
    roots = []
    for node in nodes.values():
        parent = node["parent"]
        if parent is not None and parent not in nodes:
            raise BadRow("no parent", "parent_id", show(parent) + ", which is no message of this tree", "one that is",
                         row=node["row"])
        if parent is not None:
            _check_reply(node, nodes[parent], node["row"])
        (roots if parent is None else nodes[parent]["replies"]).append(node)
    if len(roots) != 1:
        raise BadRow("no single root", "parent_id", f"{len(roots)} messages without a parent in one tree", "one",
                     row=roots[1]["row"] if roots else 0)
    return list(_rankings(roots[0], [], _text(rows[0], "message_tree_id")))


def _rankings(root: dict, path: Messages, tree: str):
    stack = [(root, path)]
    while stack:
        node, path = stack.pop()
        path = [*path, {"role": _ROLES[node["role"]], "content": node["text"]}]
        replies = node["replies"]
        asked = node["role"] == "prompter" and len(replies) >= 2
        if asked and any(reply["rank"] is None for reply in replies):
            yield Skipped("prompter message with a reply that has no rank")
        elif asked:
            scores = [-reply["rank"] for reply in replies]
            meta = {"tree": tree, "message": node["message_id"]}
            yield Record(path, [reply["text"] for reply in replies], scores, meta)
        stack += [(reply, path) for reply in reversed(replies)]


def gsm_solutions(row: dict) -> Record:
    """OpenAI's GSM8K model solutions: four responses to a question, scored 1.0 if correct, else 0.0."""
    texts, scores = [], []
    for source in _GSM_SOURCES:
        solution = _object(row, source)
        with _inside(source):
            texts.append(_text(solution, "solution"))
            scores.append(label_of(cell(solution, "is_correct"), "is_correct"))
    return Record(_text(row, "question"), texts, scores, {"ground_truth": _text(row, "ground_truth")})


# ---- demonstrations


def imdb(row: dict, shortest: int = 2, longest: int = 8) -> Record:
    """A film review, cut after a number of words between `shortest` and `longest` that its text draws:
    both bounds included.

    The prompt is what comes before the cut; the demonstration, which begins with the space, what comes after. The label
    (1 positive, 0 negative) goes to meta. Rafailov et al. 2023 (arXiv 2305.18290 §6.1) cut after as many tokens.
    """
    review = _text(row, "text")
    words = random.Random(f"imdb/{review}").randint(shortest, longest)
    ends = [word.end() for word in re.finditer(r"\S+", review)]
    if len(ends) <= words:
        raise BadRow("too short", "text", f"{len(ends)} words", f"more than {words}, where the review is cut")
    cut = ends[words - 1]
    return Record(review[:cut], [review[cut:]], None, _given(row, "label"))


def tldr(row: dict) -> Record:
    """TL;DR posts in the prompt form of `query`, without its padding, and the author's summary after a space."""
    return Record(_text(row, "query").strip(), [" " + _text(row, "summary").strip()])
