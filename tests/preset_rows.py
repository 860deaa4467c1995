"""Tiny files in the layout of every dataset that has a preset, made up here: each row with what must come of it."""

import random
from dataclasses import dataclass, field, replace

from omegaconf import OmegaConf

from algorithms.common.data.records import FileData, Record
from algorithms.common.runs.settings import build
from command_line import composed_alone


def source(preset, *overrides) -> FileData:
    """As the command line makes it, composed without the other groups."""
    return build(OmegaConf.create({"data": composed_alone("data", preset, *overrides)}), ("data",))["data"]


@dataclass
class Bad:
    """A row that cannot be used: the reason it is counted under, its column, and the rows of its group, itself at 0."""

    reason: str
    column: str
    group: tuple[int, ...] = (0,)


FILTERED, GROUPED = "filtered", "part of the group before"


@dataclass
class Case:
    """rows: each with what comes of it: records, Bad, FILTERED or GROUPED. skipped: what is left out inside rows."""

    rows: list[tuple]
    name: str = "rows.jsonl"
    filter: str | None = None
    skipped: dict[str, int] = field(default_factory=dict)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(prompt, better, worse, meta=None):
    return [Record(prompt, [better, worse], [1.0, 0.0], meta or {})]


def demo(prompt, response, meta=None):
    return [Record(prompt, [response], None, meta or {})]


def asked(records):
    """The same records with the prompts as a user's messages."""
    return [replace(record, prompt=[user(record.prompt)]) for record in records]


def changed(row, **values):
    return {**row, **values}


HH_ROWS = [
    ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\nHuman: is no mark", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
     pair([user("Hi")], "Hello.\nHuman: is no mark", "No.")),
    ({"chosen": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Tea?\n\nAssistant: Green.",
      "rejected": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Tea?\n\nAssistant: None."},
     pair([user("Hi"), assistant("Yes?"), user("Tea?")], "Green.", "None.")),
    ({"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
     Bad("empty response", "chosen")),
    ({"chosen": "\n\nHuman: Hi\n\nAssistant: A\n\nAssistant: B", "rejected": "\n\nHuman: Hi\n\nAssistant: No."},
     Bad("prompt not shared", "rejected")),
]
STATIC = {"prompt": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Tea?\n\nAssistant:", "response": " Green.",
          "chosen": " Green.", "rejected": " None."}
STATIC_ROWS = [
    (STATIC, pair([user("Hi"), assistant("Yes?"), user("Tea?")], "Green.", "None.")),
    (changed(STATIC, chosen=" \n\nLine", rejected="Bare"),
     pair([user("Hi"), assistant("Yes?"), user("Tea?")], "\n\nLine", "Bare")),
    (changed(STATIC, prompt="\n\nHuman: Hi"), Bad("not a transcript", "prompt")),
    (changed(STATIC, prompt="\n\nHuman: Hi\n\nAssistant: said"), Bad("not a transcript", "prompt")),
    (changed(STATIC, rejected=None), Bad("null", "rejected")),
]
REDDIT = {"info": {"id": "t3", "post": "I lost my hat.", "title": "Hat", "subreddit": "advice", "site": None,
                   "article": None},
          "summaries": [{"text": " Hat lost.", "policy": "ref", "note": None},
                        {"text": " Hm.", "policy": "sup4", "note": None}],
          "choice": 1, "worker": "w1", "batch": "b7", "split": "train", "extra": {"confidence": 8}}
NEWS = changed(REDDIT, info={"id": "c1", "post": None, "title": None, "subreddit": None, "site": "cnn",
                             "article": "Rain fell."},
               choice=0, extra={"confidence": None})
REDDIT_PROMPT = "SUBREDDIT: r/advice\n\nTITLE: Hat\n\nPOST: I lost my hat.\n\nTL;DR:"
SUMMARY_META = {"confidence": 8, "policies": ["ref", "sup4"], "worker": "w1", "batch": "b7"}
WEBGPT = {"question": {"dataset": "eli5", "id": "q1", "full_text": "Why is ice slippery?"},
          "quotes_0": {"title": [], "extract": []}, "answer_0": "Water [1].", "tokens_0": {"prefix": []},
          "score_0": -0.5,
          "quotes_1": {"title": [], "extract": []}, "answer_1": "A thin film [1].", "tokens_1": {"prefix": []},
          "score_1": 0.5}
QUESTION = {"qid": 5, "question": "<p>How?</p>", "date": "2020", "metadata": ["https://example.com/q/5"], "answers": [
    {"answer_id": 1, "author": "a", "pm_score": 4, "selected": True, "text": "So."},
    {"answer_id": 2, "author": "b", "pm_score": 2, "selected": False, "text": "Or so."},
    {"answer_id": 3, "author": "c", "pm_score": 2, "selected": False, "text": "No."}]}
QUESTION_META = {"qid": 5, "metadata": ["https://example.com/q/5"]}
RAW_ANSWERS = [{"text": "ten", "upvotes": 10, "selected": True}, {"text": "hundred", "upvotes": 100, "selected": False},
               {"text": "minus", "upvotes": -3, "selected": True}]


def raw_pair(i, j, scores):
    return Record("<p>How?</p>", [RAW_ANSWERS[i]["text"], RAW_ANSWERS[j]["text"]], scores,
                  {**QUESTION_META, "upvotes": [RAW_ANSWERS[i]["upvotes"], RAW_ANSWERS[j]["upvotes"]]})


PAIRED = {"qid": 1, "question": "How {so}?", "date": "d", "metadata": ["m"], "response_j": "Like this.",
          "response_k": "No."}
SHP = {"post_id": "x", "domain": "askbaking", "history": "My bread?", "human_ref_A": "Knead.", "human_ref_B": "Wait.",
       "labels": 1, "score_A": 12, "score_B": 6, "score_ratio": 2.0}
SHP_META = {"domain": "askbaking", "score_ratio": 2.0}
ULTRA = {"prompt": "Sum?", "prompt_id": "1", "chosen": [user("Sum?"), assistant("Four.")],
         "rejected": [user("Sum?"), assistant("5")], "messages": [user("Sum?"), assistant("Four.")],
         "score_chosen": 8.5, "score_rejected": 3.0}
STEER = {"prompt": "Name it.", "response": "Bo.", "helpfulness": 3, "correctness": 4, "coherence": 4, "complexity": 1,
         "verbosity": 0}
ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "Below …"}
DOLLY = {"instruction": "Who?", "context": "Bo sang.", "response": "Bo.", "category": "closed_qa"}
MESSAGE = {"message_id": "r", "parent_id": None, "user_id": "u", "text": "Hi", "role": "prompter", "lang": "en",
           "deleted": False, "rank": None, "synthetic": False, "model_name": None, "message_tree_id": "r"}


def said(key, parent, text, role="assistant", tree="r", **values):
    return {**MESSAGE, "message_id": key, "parent_id": parent, "text": text, "role": role, "message_tree_id": tree,
            **values}


def node(role, text, *replies, **values):
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **values}


# a tree's messages in no order, replies not by rank, ranks missing in part, absent, and below a reply
OASST_ROWS = [
    (said("q", "a", "More?", "prompter"),
     [Record([user("Hi")], ["two", "none", "one"], [-1.0, -2.0, 0.0], {"tree": "r", "message": "r"}),
      Record([user("Hi"), assistant("one"), user("More?")], ["yes", "no"], [-1.0, 0.0],
             {"tree": "r", "message": "q"})]),
    (said("b", "r", "two", rank=1), GROUPED), (MESSAGE, GROUPED), (said("c", "r", "none", rank=2), GROUPED),
    (said("a", "r", "one", rank=0), GROUPED), (said("x", "q", "yes", rank=1), GROUPED),
    (said("y", "q", "no", rank=0), GROUPED), (said("p", "b", "And?", "prompter"), GROUPED),
    (said("p1", "p", "half", rank=0), GROUPED), (said("p2", "p", "ranked", rank=None), GROUPED),
    (said("s", None, "Lone", "prompter", "s"), []), (said("s1", "s", "reply", tree="s", rank=0), GROUPED),
    (said("t", None, "Hi", "prompter", "t"), GROUPED),
    (said("t1", "t", None, tree="t", rank=0), Bad("null", "text", (-1, 0, 1))),
    (said("t2", "t", "x", tree="t", rank=1), GROUPED),
    (said("v1", "gone", "x", tree="v", rank=1), Bad("no parent", "parent_id")),
]
UNRANKED = {"prompter message with a reply that has no rank": 1}
TREE = {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": node(
    "prompter", "Hi", node("assistant", "two", rank=1), node("assistant", "one", node(
        "prompter", "More?", node("assistant", "x", rank=0), node("assistant", "y")), rank=0))}
SAFE = {"prompt": "Pick a lock?", "response_0": "Call a locksmith.", "response_1": "Use a pin.",
        "is_response_0_safe": True,
        "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0}
SAFE_META = {"is_response_0_safe": True, "is_response_1_safe": False}
REVIEW = "A slow film about bread that rises , in the end , twice"


def cut_review(text, shortest=2, longest=8):
    words, count = text.split(" "), random.Random(f"imdb/{text}").randint(shortest, longest)
    return demo(" ".join(words[:count]), " " + " ".join(words[count:]), {"label": 1})


ARENA = {"question_id": "q", "model_a": "m1", "model_b": "m2", "winner": "model_b", "judge": "j", "turn": 1,
         "language": "English", "conversation_a": [user("Hi"), assistant("Hey.")],
         "conversation_b": [user("Hi"), assistant("Hello.")]}


def battle(winner, scores):
    meta = {"winner": winner, "model_a": "m1", "model_b": "m2", "language": "English"}
    return changed(ARENA, winner=winner), [Record([user("Hi")], ["Hey.", "Hello."], scores, meta)]


TLDR = {"id": "1", "subreddit": "advice", "title": "Hat", "post": "I lost my hat.", "summary": "hat lost",
        "query": REDDIT_PROMPT + "  ", "reference_response": " hat lost<|endoftext|>", "query_token": [1]}
BPO = {"prompt": "Tea", "optimized_prompt": "How is green tea made?", "good_res": "Pick leaves.", "bad_res": "Tea."}
MEDICAL = {"question": "头痛怎么办？", "response_chosen": "先休息。", "response_rejected": "不知道。"}
GSM = {"question": "2+2?", "ground_truth": "4", "6b_finetuning": {"is_correct": False, "solution": "5"},
       "6b_verification": {"is_correct": True, "solution": "2+2=4"},
       "175b_finetuning": {"is_correct": True, "solution": "4"},
       "175b_verification": {"is_correct": False, "solution": "3"}}
DPO_DEMO = {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hey"}, "rejected": {"from": "gpt", "value": "Yo"}}


def parts(role, *texts, kind="text"):
    return {"role": role, "content": [{"type": kind, "value": text} for text in texts], "loss_weight": 1.0}


PARTS = {"chosen_messages": [parts("user", "Hi"), parts("assistant", "He", "y")],
         "rejected_messages": [parts("user", "Hi"), parts("assistant", "Yo")]}

CASES = {
    "hh": Case(HH_ROWS), "hh_helpful": Case(HH_ROWS), "hh_harmless": Case(HH_ROWS, "rows.json"),
    "rm_static": Case(STATIC_ROWS), "full_hh": Case(STATIC_ROWS, "rows.parquet"),
    "summarize": Case([
        (REDDIT, [Record(REDDIT_PROMPT, [" Hat lost.", " Hm."], [0.0, 1.0], SUMMARY_META)]),
        (NEWS, [Record("Article:\nRain fell.\n\nTL;DR:\n", [" Hat lost.", " Hm."], [1.0, 0.0],
                       {**SUMMARY_META, "confidence": None})]),
        (changed(REDDIT, choice=2), Bad("unknown choice", "choice")),
        (changed(REDDIT, choice=None), Bad("null", "choice")),
        (changed(REDDIT, summaries=REDDIT["summaries"][:1]), Bad("unequal lengths", "summaries")),
        (changed(REDDIT, info=None), Bad("null", "info"))]),
    "webgpt": Case([
        (WEBGPT,
         [Record("Why is ice slippery?", ["Water [1].", "A thin film [1]."], [-0.5, 0.5],
                 {"dataset": "eli5", "id": "q1"})]),
        (changed(WEBGPT, score_0=0.0, score_1=0.0), FILTERED),
        (changed(WEBGPT, answer_0=""), Bad("empty response", "responses")),
        (changed(WEBGPT, score_1=None), Bad("null", "score_1"))], filter="differ(columns=['score_0', 'score_1'])"),
    "stack_exchange": Case([
        (changed(QUESTION, answers=[
            {"text": "So.", "pm_score": 4}, None, {"text": " ", "pm_score": 9}, {"text": None, "pm_score": 9},
            {"text": "So.", "pm_score": 0}, {"text": "No.", "pm_score": 1}]),
         [Record("<p>How?</p>", ["So.", "No."], [4.0, 1.0], QUESTION_META)]),
        (QUESTION, [Record("<p>How?</p>", ["So.", "Or so."], [4.0, 2.0], QUESTION_META),
                    Record("<p>How?</p>", ["So.", "No."], [4.0, 2.0], QUESTION_META)]),
        (changed(QUESTION, answers=RAW_ANSWERS),
         [raw_pair(0, 2, [4.0, -1.0]), raw_pair(1, 0, [7.0, 4.0]), raw_pair(1, 2, [7.0, -1.0])]),
        (changed(QUESTION, answers=QUESTION["answers"][1:]), []),
        (changed(QUESTION, answers=[{"text": "a", "pm_score": None}]), Bad("null", "answers[0].pm_score")),
        (changed(QUESTION, answers=[{"text": 3, "pm_score": 1}]), Bad("wrong type", "answers[0].text")),
        (changed(QUESTION, answers=None), Bad("null", "answers"))],
        skipped={"answer without text": 3, "answer again": 1}),
    "stack_exchange_paired": Case([
        (PAIRED, pair("Question: How {so}?\n\nAnswer: ", "Like this.", "No.")),
        (changed(PAIRED, response_k="Like this."), Bad("identical pair", "response_k")),
        (changed(PAIRED, question=None), Bad("null", "question"))]),
    "shp": Case([
        (SHP, [Record("My bread?", ["Knead.", "Wait."], [12.0, 6.0], SHP_META)]),
        (changed(SHP, labels=0, score_A=5, score_B=40, score_ratio=8.0),
         [Record("My bread?", ["Knead.", "Wait."], [5.0, 40.0], {**SHP_META, "score_ratio": 8.0})]),
        (changed(SHP, score_A=9, score_ratio=1.5), FILTERED),
        (changed(SHP, labels=0), Bad("scores against label", "labels")),
        (changed(SHP, score_ratio=None), Bad("null", "score_ratio")),
        ({name: value for name, value in SHP.items() if name != "history"}, Bad("missing column", "history")),
        (changed(SHP, score_A=6), Bad("scores against label", "labels"))],
                filter="at_least(column='score_ratio', value=2)"),
    "synthetic_gptj": Case([
        ({"prompt": "Tea?", "chosen": "Green.", "rejected": "No."}, pair("Tea?", "Green.", "No.")),
        ({"prompt": "Tea?", "chosen": " ", "rejected": "No."}, Bad("empty response", "chosen"))]),
    "ultrafeedback": Case([
        (ULTRA, [Record("Sum?", ["Four.", "5"], [8.5, 3.0])]),
        (changed(ULTRA, score_rejected=8.5), FILTERED),
        (changed(ULTRA, score_chosen=1.0), Bad("scores against choice", "score_chosen + score_rejected")),
        (changed(ULTRA, chosen=[user("Else?"), assistant("Four.")]), Bad("prompt not shared", "chosen"))],
        filter="differ(columns=['score_chosen', 'score_rejected'])"),
    "helpsteer2": Case([
        (STEER, [Record("Name it.", ["Bo."], [3.0])]),
        (changed(STEER, response="Al.", helpfulness=0), [Record("Name it.", ["Al."], [0.0])]),
        (changed(STEER, helpfulness=None), Bad("null", "helpfulness"))]),
    "helpsteer2_pairs": Case([
        (STEER, [Record("Name it.", ["Bo.", "Al.", "Cy."], [3.0, 4.0, 1.0])]),
        (changed(STEER, response="Al.", helpfulness=4), GROUPED),
        (changed(STEER, prompt="Tie"), [Record("Tie", ["Bo.", "Al."], [3.0, 3.0])]),
        (changed(STEER, prompt="Tie", response="Al."), GROUPED),
        (changed(STEER, prompt="One"), [Record("One", ["Bo."], [3.0])]),
        (changed(STEER, prompt="Null"), GROUPED),
        (changed(STEER, prompt="Null", helpfulness=None), Bad("null", "helpfulness", (-1, 0))),
        (changed(STEER, response="Cy.", helpfulness=1), GROUPED),
        (changed(STEER, prompt=None), Bad("null", "prompt"))]),
    "alpaca": Case([
        (ALPACA, demo("Add.\n1 and 2", "3")), (changed(ALPACA, input=""), demo("Add.", "3")),
        (changed(ALPACA, output=""), Bad("empty response", "output"))], "rows.json"),
    "dolly": Case([
        (DOLLY, demo("Who?\nBo sang.", "Bo.")), (changed(DOLLY, context=""), demo("Who?", "Bo.")),
        (changed(DOLLY, context=None), Bad("null", "context"))]),
    "oasst": Case(OASST_ROWS, skipped=UNRANKED),
    "oasst_tree": Case([
        (TREE, [Record([user("Hi")], ["two", "one"], [-1.0, 0.0], {"tree": "t", "message": "Hi"})]),
        (changed(TREE,
                 prompt=node("prompter", "Hi", node("assistant", "a", rank=None), node("assistant", "b", rank=None))),
         []),
        (changed(TREE, prompt=node("bot", "Hi")), Bad("unknown role", "prompt.role")),
        (changed(TREE, prompt=None), Bad("null", "prompt"))], skipped={unranked: 2 for unranked in UNRANKED}),
    "beavertails": Case([
        ({"prompt": "Pick a lock?", "response": "No.", "category": {"theft": False}, "is_safe": True},
         [Record("Pick a lock?", ["No."], [1.0])]),
        ({"prompt": "Pick a lock?", "response": "Pin.", "category": {}, "is_safe": False},
         [Record("Pick a lock?", ["Pin."], [0.0])]),
        ({"prompt": "Pick a lock?", "response": "Pin.", "category": {}, "is_safe": None}, Bad("null", "is_safe"))]),
    "safe_rlhf": Case([
        (SAFE, [Record("Pick a lock?", ["Call a locksmith.", "Use a pin."], [0.0, 1.0], SAFE_META)]),
        (changed(SAFE, better_response_id=0),
         [Record("Pick a lock?", ["Call a locksmith.", "Use a pin."], [1.0, 0.0], SAFE_META)]),
        (changed(SAFE, better_response_id=-1), Bad("unknown choice", "better_response_id")),
        (changed(SAFE, better_response_id=None), Bad("null", "better_response_id"))]),
    "ultrachat": Case([
        ({"prompt": "Hi", "prompt_id": "1", "messages": [user("Hi"), assistant("a"), user("q"), assistant("b")]},
         demo([user("Hi"), assistant("a"), user("q")], "b")),
        ({"prompt": "Hi", "prompt_id": "1", "messages": [user("Hi"), assistant("a"), user("q")]},
         Bad("not an assistant turn", "messages"))]),
    "gpt4_llm": Case([
        ({"user_input": "Tea?", "completion_a": "Green.", "completion_b": "No."}, pair("Tea?", "Green.", "No.")),
        ({"user_input": "Tea?", "completion_a": "Same.", "completion_b": "Same."},
         Bad("identical pair", "completion_b"))], "rows.json"),
    "flan_v2": Case([
        ({"inputs": "Q: 1+1?", "targets": "2", "task_source": "Flan2021", "task_name": "sum",
          "template_type": "zs_opt"},
         demo("Q: 1+1?", "2")),
        ({"inputs": "", "targets": "2", "task_source": "CoT", "task_name": "sum", "template_type": "fs"},
         Bad("empty prompt", "inputs"))]),
    "imdb": Case([
        ({"text": REVIEW, "label": 1}, cut_review(REVIEW)),
        ({"text": REVIEW + " over", "label": 1}, cut_review(REVIEW + " over")),
        ({"text": "Bad", "label": 0}, Bad("too short", "text"))]),
    "tldr": Case([
        (TLDR, demo(REDDIT_PROMPT, " hat lost")), (changed(TLDR, summary=None), Bad("null", "summary")),
        (changed(TLDR, summary=" "), Bad("empty response", "responses"))]),
    "arena": Case([
        battle("model_a", [1.0, 0.0]), battle("model_b", [0.0, 1.0]), battle("tie", [0.5, 0.5]),
        battle("tie (bothbad)", [0.5, 0.5]), battle("both_bad", [0.5, 0.5]),
        (changed(ARENA, turn=2), FILTERED), (changed(ARENA, winner="both"), Bad("unknown choice", "winner")),
        (changed(ARENA, conversation_b=[user("Ho"), assistant("x")]), Bad("prompt not shared", "conversation_b"))],
        filter="equals(column='turn', value=1)"),
    "bpo": Case([
        (BPO, demo("Tea", "How is green tea made?")),
        (changed(BPO, optimized_prompt=""), Bad("empty response", "optimized_prompt"))]),
    "question_pairs": Case([
        (MEDICAL, pair("头痛怎么办？", "先休息。", "不知道。")),
        (changed(MEDICAL, response_rejected=None), Bad("null", "response_rejected"))]),
    "gsm_solutions": Case([
        (GSM, [Record("2+2?", ["5", "2+2=4", "4", "3"], [0.0, 1.0, 1.0, 0.0], {"ground_truth": "4"})]),
        (changed(GSM, **{"6b_finetuning": None}), Bad("null", "6b_finetuning"))]),
    "dpo_demo": Case([
        (DPO_DEMO, pair([{"role": "system", "content": "Be brief."}, user("Hi")], "Hey", "Yo")),
        (changed(DPO_DEMO, chosen={"from": "tool", "value": "x"}), Bad("unknown role", "chosen"))], "rows.json"),
    "kto_demo": Case([
        ({"messages": [user("Hi"), assistant("Hey")], "label": True}, [Record([user("Hi")], ["Hey"], [1.0])]),
        ({"messages": [user("Hi"), assistant("Yo")], "label": False}, [Record([user("Hi")], ["Yo"], [0.0])]),
        ({"messages": [user("Hi"), assistant("Yo")], "label": None}, Bad("null", "label"))], "rows.json"),
    "dpo_parts_demo": Case([
        (PARTS, pair([user("Hi")], "Hey", "Yo")),
        (changed(PARTS, rejected_messages=[parts("user", "Hi"), parts("assistant", "x", kind="image")]),
         Bad("non-text part", "rejected_messages"))]),
}

VERDICT = {"prompt_id": "p", "prompt": "Tea?", "left": "0", "left_response": " Green.", "right": "start",
           "right_response": " None.", "outcome": "left", "judge": "people", "order": "right_first", "at": "2026",
           "raw": "second", "sample": 0, "left_score": None, "right_score": None}
SAID = {"judge": "people", "left": "0", "right": "start", "at": "2026"}
CASES["verdicts"] = Case([
    (VERDICT, pair("Tea?", " Green.", " None.", SAID)),
    (changed(VERDICT, outcome="right", judge="people/Ada"),
     [Record("Tea?", [" Green.", " None."], [0.0, 1.0], {**SAID, "judge": "people/Ada"})]),
    (changed(VERDICT, outcome="tie"), [Record("Tea?", [" Green.", " None."], [0.5, 0.5], SAID)]),
    (changed(VERDICT, prompt="\n\nHuman: Tea?\n\nAssistant:", left_response="Yes."),
     [Record([user("Tea?")], ["Yes.", " None."], [1.0, 0.0], SAID)]),
    (changed(VERDICT, outcome="none"), []),
    (changed(VERDICT, judge="peoples"), []),
    (changed(VERDICT, left_response=" "), []),
    (changed(VERDICT, left_response=" None."), []),
    (changed(VERDICT, outcome="A"), Bad("unknown choice", "outcome")),
], "verdicts.parquet", skipped={"pair without a verdict": 1, "verdict of another judge": 1,
                                "verdict on an empty answer": 1, "verdict on twice the same answer": 1})

CHAT = {"alpaca", "dolly", "webgpt", "shp", "stack_exchange", "synthetic_gptj", "helpsteer2", "helpsteer2_pairs",
        "safe_rlhf", "beavertails", "gsm_solutions", "bpo", "gpt4_llm", "question_pairs", "flan_v2", "ultrafeedback"}
for name in CHAT:
    CASES[name].rows = [(row, asked(outcome) if isinstance(outcome, list) else outcome)
                        for row, outcome in CASES[name].rows]
