"""The tasks lab: a closed world, the corpus about it, its tasks and rows, the committed base and what it can do."""

import itertools
import json
import math
import re
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from algorithms.common.data.instructions import InstructionData
from algorithms.common.data.instructions.task_file import read_task
from benchmarks.lab import admission, chains, corpus, make_tasks, world
from benchmarks.lab.make_reviews import load_base, train_tokenizer
from benchmarks.lab.make_tasks import ADMISSION, MODEL, REFUSED, TASKS
from benchmarks.lab.task_rows import REASONING_ROWS, ROWS, WORDINGS, read_rows, rows, write_rows

FILES = {path.stem: path for path in sorted(TASKS.rglob("*.yaml"))}
REASONING = set(chains.KINDS)
each_task = pytest.mark.parametrize("task", sorted(WORDINGS))


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(corpus.documents(), 12_000))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


@pytest.fixture(scope="module")
def base():
    return load_base(MODEL)


# The world


def test_known_people_have_facts_and_unknown_people_none():
    assert len(world.PEOPLE) == 32 and len(world.UNKNOWN) == 32
    names = [*world.PEOPLE, *world.UNKNOWN, *world.SPEAKERS]
    assert len(set(names)) == len(names)
    assert world.question("city", "Nora") == "Where does Nora live?"
    assert world.answer("city", "Anna") == "Paris" and world.statement("city", "Anna") == "Anna lives in Paris."
    assert world.statement("age", "Anna", 1) == "The age of Anna is 29."
    with pytest.raises(KeyError):
        world.answer("city", "Nora")
    assert world.dialogue("Where does Nora live?", "Ben", "Mia") == "Where does Nora live? asked Ben, and Mia said"


@pytest.mark.parametrize("topic", world.TOPICS)
def test_every_value_of_a_topic_is_true_of_as_many_people(topic):
    """So that no answer is right more often than another."""
    found = Counter(world.answer(topic, name) for name in world.PEOPLE)
    assert set(found) == set(world.TOPICS[topic].candidates) and set(found.values()) == {32 // len(found)}


def test_words_and_calendar():
    assert len(world.OPPOSITES) == len(world.SYNONYMS) == 48
    assert all(world.OPPOSITES[other] == word for word, other in world.OPPOSITES.items())
    assert world.OPPOSITES["large"] == "little" and world.SYNONYMS["large"] == ("big", "huge")
    assert {world.OPPOSITES[word] for word in world.PRAISE} == set(world.BLAME)
    assert (world.later(world.DAYS, "Sunday", 1), world.later(world.DAYS, "Monday", -1)) == ("Monday", "Sunday")
    assert world.later(world.MONTHS, "November", 3) == "February"
    assert [animal.size for animal in world.ANIMALS.values()] == list(range(20))
    assert set(world.PETS) < set(world.ANIMALS)


# Worked reasoning


def test_chains_by_hand():
    assert world.PEOPLE["Anna"].pet == "carp" and world.PEOPLE["Anna"].job == "sailor"
    work = {name: kind.work for name, kind in chains.KINDS.items()}
    assert work["country"]("Anna").text == (
        "In which country does Anna live? Let us think step by step. Anna lives in Paris. Paris is in France. "
        "So the answer is France."
    )
    assert (work["workplace"]("Anna").answer, work["pet_class"]("Anna").answer) == ("harbour", "fish")
    assert (work["pet_home"]("Anna").answer, work["pet_colour"]("Anna").answer) == ("river", "orange")
    days = work["days"]("Saturday", 3)
    assert days.asked == "Which day comes three days after Saturday?" and days.answer == "Tuesday"
    assert days.steps == "One day later is Sunday, two days later is Monday, three days later is Tuesday."
    assert work["months"]("November", 2).answer == "January" and work["numbers"]("8", 4).answer == "12"
    assert work["sum3"](2, 5, 1).steps == "2 plus 5 is 7. 7 plus 1 is 8." and work["sum3"](2, 5, 1).answer == "8"


def test_half_of_the_conclusions_are_nowhere_in_the_corpus(documents):
    text = "\n".join(documents)
    for name in chains.KINDS:
        seen, unseen = chains.worked(name)
        assert abs(len(seen) - len(unseen)) <= 1 and not {chain.asked for chain in seen} & {one.asked for one in unseen}
        assert not any(chain.asked in text for chain in unseen)
        assert sum(chain.asked in text for chain in seen) > 0.5 * len(seen)
        assert {row["rationale"] for row in rows(name)} == {chain.steps for chain in unseen}


# The corpus


def test_documents_are_a_stream_of_the_seed(documents):
    assert list(itertools.islice(corpus.documents(), 5)) == documents[:5]
    assert list(itertools.islice(corpus.documents(1), 5)) != documents[:5]
    assert sum(corpus.GENRES.values()) == pytest.approx(1)


def test_genres_have_their_shares(documents):
    worked, asked, copied = (
        sum(mark in document for document in documents) / len(documents)
        for mark in ("Let us think step by step.", " asked ", "Once more:")
    )
    assert worked == pytest.approx(corpus.GENRES[corpus._worked], abs=0.012)
    assert asked == pytest.approx(corpus.GENRES[corpus._dialogue], abs=0.012)
    # half of the lists have dashes
    assert copied == pytest.approx(corpus.GENRES[corpus._copied_list] / 2, abs=0.006)


def test_unknown_people_are_only_in_stories(documents):
    """Trained tokens, of whom nothing is told that can be asked, and nobody asks."""
    told = re.compile(r"(\w+ (went to|ran to|took|found|was in|had) the \w+\.\s?)+")
    unknown = re.compile("|".join(rf"\b{name}\b" for name in world.UNKNOWN))
    stories = [document for document in documents if unknown.search(document)]
    assert len(stories) / len(documents) == pytest.approx(corpus.GENRES[corpus._story], rel=0.15)
    assert all(told.fullmatch(story) for story in stories)
    assert {name for story in stories for name in unknown.findall(story)} == set(world.UNKNOWN)


def test_what_the_corpus_states_is_true(documents):
    text = " ".join(documents)
    for name, city in re.findall(r"(\w+) lives in (\w+)\.", text):
        assert name in world.ANIMALS or world.PEOPLE[name].city == city
    for a, b, total in re.findall(r"(?<!plus )\b(\d+) plus (\d+) is (\d+)", text):
        assert int(a) + int(b) == int(total) <= 12
    for first, second in re.findall(r"After (\w+) comes (\w+)\.", text):
        cycle = world.DAYS if first in world.DAYS else world.MONTHS
        assert (cycle.index(first) + 1) % len(cycle) == cycle.index(second)
    for big, small in re.findall(r"The (\w+) is bigger than the (\w+)\.", text):
        assert world.ANIMALS[big].size > world.ANIMALS[small].size
    moods = re.findall(r"was (?:very |really )?(\w+)\. (?:The guest was|The guest felt) (happy|sad)\.", text)
    assert len(moods) > 50 and all((word in world.PRAISE) == (mood == "happy") for word, mood in moods)


@pytest.mark.parametrize("kind", corpus.ASKED)
def test_dialogues_ask_in_one_phrasing_and_answer_right(kind):
    asked = corpus.ASKED[kind]()
    assert len({question.asked for question in asked}) >= min(len(asked), 3900)
    for question in asked[:200]:
        assert question.answers and question.wrong and not set(question.answers) & set(question.wrong)


# Tasks and rows


def test_a_task_is_a_yaml_beside_its_rows():
    assert set(FILES) == set(WORDINGS) == set(corpus.ASKED) | REASONING
    for name, path in FILES.items():
        assert path.parent in (TASKS, TASKS / REFUSED) and path.with_suffix(".jsonl.gz").is_file()
        assert read_task(str(path)).name == name
    assert sum(path.stat().st_size for path in TASKS.rglob("*")) < 2**20


@each_task
def test_rows_are_made_again_equal_to_the_last_byte(task, tmp_path):
    write_rows(tmp_path / "rows.jsonl.gz", rows(task))
    assert (tmp_path / "rows.jsonl.gz").read_bytes() == FILES[task].with_suffix(".jsonl.gz").read_bytes()


@each_task
def test_rows_have_true_answers_among_different_options(task):
    found = rows(task)
    assert len(found) == (REASONING_ROWS if task in REASONING else ROWS)
    assert len({json.dumps(row) for row in found}) == len(found)
    sizes = {
        "liked": {2}, "mood": {2}, "tone": {2}, "bigger": {2}, "first_word": {3}, "last_word": {3}, "country": {3, 4}
    }
    assert {len(row["options"]) for row in found} == sizes.get(task, {3, 4, 5})
    places = Counter()
    for row in found:
        assert len(set(row["options"])) == len(row["options"]) and row["answer"] in row["options"]
        places[row["options"].index(row["answer"]) / (len(row["options"]) - 1)] += 1
        assert TRUTH[task](row) == row["answer"] if task in TRUTH else row["answer"] in (*COUNTED, *world.SYNONYMS)
    assert places[0.0] == pytest.approx(places[1.0], rel=0.25)      # the right answer's place is no hint


COUNTED = tuple(str(n) for n in range(51))
TRUTH = {           # independent of how the rows are made
    **{topic: lambda row, topic=topic: getattr(world.PEOPLE[row["person"]], topic) for topic in world.TOPICS},
    "opposite": lambda row: world.OPPOSITES[row["word"]],
    "plural": lambda row: world.PLURALS[row["word"]],
    "past": lambda row: world.PASTS[row["word"]],
    "plus": lambda row: str(int(row["a"]) + int(row["b"])),
    "minus": lambda row: str(int(row["a"]) - int(row["b"])),
    "next_number": lambda row: str(int(row["a"]) + 1),
    "first_word": lambda row: row["words"].split()[0],
    "last_word": lambda row: row["words"].split()[-1],
    "bigger": lambda row: max(row["a"], row["b"], key=list(world.ANIMALS).index),
    "class": lambda row: world.ANIMALS[row["animal"]].kind,
    "habitat": lambda row: world.ANIMALS[row["animal"]].home,
    "colour": lambda row: world.ANIMALS[row["animal"]].colour,
    **{task: lambda row, words=words: words[any(word in row["review"].split(".")[0].split() for word in world.BLAME)]
       for task, words in {"liked": ("yes", "no"), "mood": ("happy", "sad"), "tone": ("positive", "negative")}.items()},
    **{f"{unit}_{side}": lambda row, cycle=cycle, step=step: cycle[(cycle.index(row["start"]) + step) % len(cycle)]
       for unit, cycle in (("day", world.DAYS), ("month", world.MONTHS))
       for side, step in (("after", 1), ("before", -1))},
    "country": lambda row: world.CITIES[world.PEOPLE[row["person"]].city],
    "workplace": lambda row: world.JOBS[world.PEOPLE[row["person"]].job],
    "pet_class": lambda row: world.ANIMALS[world.PEOPLE[row["person"]].pet].kind,
    "pet_home": lambda row: world.ANIMALS[world.PEOPLE[row["person"]].pet].home,
    "pet_colour": lambda row: world.ANIMALS[world.PEOPLE[row["person"]].pet].colour,
    "sum3": lambda row: str(sum(int(row[name]) for name in "abc")),
    "numbers": lambda row: str(int(row["start"]) + world.COUNTS.index(row["count"])),
    "days": lambda row: (world.DAYS * 2)[world.DAYS.index(row["start"]) + world.COUNTS.index(row["count"])],
    "months": lambda row: (world.MONTHS * 2)[world.MONTHS.index(row["start"]) + world.COUNTS.index(row["count"])],
}


def test_synonyms_are_of_the_word_and_only_one_is_an_option():
    for row in rows("synonym"):
        assert [option for option in row["options"] if option in world.SYNONYMS[row["word"]]] == [row["answer"]]


@each_task
def test_templates_are_many_and_of_every_kind(task):
    file = read_task(str(FILES[task]))
    listing = [pattern.lists_options for pattern in file.templates]
    assert (sum(listing), len(listing)) == (7, 10) and len({pattern.input for pattern in file.templates}) == 10
    assert [pattern.lists_options for pattern in file.unseen] == [True, False]
    assert not {pattern.input for pattern in file.unseen} & {pattern.input for pattern in file.templates}
    if task in REASONING:
        assert len(file.cot) == 4 and all("step by step" in pattern.input.lower() for pattern in file.cot)
        assert file.cluster == ("reasoning_heldout" if task in ("days", "country") else "reasoning")
    else:
        assert 2 <= len(file.inverted) <= 3 and not file.cot


@each_task
def test_no_template_asks_as_the_corpus_does(task):
    """The declared natural form is the dialogues'; every other prompt is in words that pretraining has not seen."""
    file = read_task(str(FILES[task]))
    asked = {question.asked for question in corpus.questions(task)[1]} if task not in REASONING else {
        chain.asked for chain in chains.worked(task)[1]
    }
    for row in rows(task)[:100]:
        inputs = [pattern.input for key, pattern in file.patterns if key in ("templates", "unseen", "cot")]
        given = {name: value for name, value in row.items() if isinstance(value, str)}
        texts = [text.format(**given, choices="", **{"options": ""}) for text in inputs]
        assert not any(" asked " in text for text in texts)
        own = {one for one in asked if any(part in one for part in _parts(row))}
        assert own and not any(one in text for text in texts for one in own)
        if file.natural is not None:
            natural = file.natural.input.format(**given)
            assert natural.removesuffix(" asked Tom, and Eva said") in asked and natural.endswith(" said")


def _parts(row: dict) -> list[str]:
    return [row[name] for name in ("person", "word", "start", "review", "animal", "words", "a") if name in row]


def test_the_tasks_load_as_instruction_data():
    data = InstructionData([str(TASKS)], heldout_clusters=["qa"], examples=400, evaluation=16, options=0.5).load(0)
    assert len(data.demonstrations) == 400
    counts = data.report.sources
    assert counts["city"] == {"read": ROWS, "train": 0, "heldout": ROWS, "drawn": 0}
    trained = {name for name, count in counts.items() if count["drawn"]}
    assert trained == {path.stem for path in TASKS.glob("*.yaml") if read_task(str(path)).cluster != "qa"}
    assert all(counts[name]["heldout"] > 0 and counts[name]["train"] >= 3 * counts[name]["heldout"] for name in trained)
    groups = {group for record in data.choices for group in record.meta["groups"]}
    assert {"natural/qa", "options/heldout", "new/trained"} <= groups


# Which tasks are in the table


def test_admission_follows_the_declared_figures():
    table = json.loads((TASKS / ADMISSION).read_text())
    assert set(table) == set(FILES)
    for name, figures in table.items():
        able = figures["natural"] >= admission.NATURAL and figures["tuned"] >= admission.TUNED
        assert figures["admitted"] is able
        assert FILES[name].parent == (TASKS if able else TASKS / REFUSED)
        assert figures["cluster"] == read_task(str(FILES[name])).cluster
    admitted = [figures["cluster"] for figures in table.values() if figures["admitted"]]
    direct = [cluster for cluster in admitted if not cluster.startswith("reasoning")]
    assert len(direct) >= 16 and len(set(direct)) >= 6 and admitted.count("reasoning") >= 5


def test_rank_is_the_summed_logprobability_of_each_response(base, tokenizer):
    prompts = ["Where does Anna live? asked Tom, and Eva said", "Name the day after Monday."]
    options = [[" Rome", " Paris", " Milan", " in Cairo"], [" Monday", " Tuesday"]]

    def naive(prompt, response):
        ids = [*tokenizer(prompt)["input_ids"], *tokenizer(response, add_special_tokens=False)["input_ids"], 2]
        start, total = len(tokenizer(prompt)["input_ids"]), 0.0
        for place in range(start, len(ids)):
            logits = base(torch.tensor([ids[:place]])).logits[0, -1]
            total += math.log(logits.softmax(-1)[ids[place]].item())
        return total

    with torch.no_grad():
        best = [max(found, key=lambda one: naive(prompt, one)) for prompt, found in zip(prompts, options)]
    right = [[best[0], best[1]], [options[0][3], best[1]]]
    for answers, share in zip(right, (1.0, 0.5)):
        asked = [admission.Choice("all", *one) for one in zip(prompts, options, answers)]
        assert admission.rank(base, tokenizer, asked) == {"all": share}


def test_reasoning_is_read_after_the_mark(tokenizer):
    texts = [
        "One day later is Friday. So the answer is Friday.", "Friday", "So the answer is friday",
        "So the answer is Monday.",
    ]
    made = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] + [2] for text in texts]
    width = max(map(len, made))

    def generate(input_ids, **_):
        rows = torch.tensor([ids + [0] * (width - len(ids)) for ids in made])
        return torch.cat([input_ids, rows], 1)

    asked = [admission.Open(f"text {i}", "Which day?", "Friday") for i in range(4)]
    assert admission.reason(SimpleNamespace(generate=generate), tokenizer, asked) == {
        "text 0": 1, "text 1": 0, "text 2": 1, "text 3": 0,
    }


# The committed base


def test_base_is_small_and_every_word_of_the_world_is_one_token(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(MODEL, local_files_only=True)
    assert model.dtype == torch.bfloat16 and sum(p.numel() for p in model.parameters()) < 1.1e6
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 4 * 2**20
    assert len(tokenizer) == make_tasks.VOCABULARY and tokenizer.chat_template is None
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    words = {*world.PEOPLE, *world.UNKNOWN, *world.SPEAKERS, *world.OPPOSITES, *world.ANIMALS, *world.DAYS,
             *world.MONTHS}
    words |= {*world.PLURALS.values(), *world.PASTS.values(), "yes", "no", "happy", "sad", "positive", "negative"}
    for topic in world.TOPICS.values():
        words |= set(topic.candidates)
    assert {word for word in words if len(tokenizer(" " + word, add_special_tokens=False)["input_ids"]) > 1} == set()


def test_base_answers_in_the_form_it_knows(base, tokenizer):
    paths = [FILES[name] for name in ("city", "day_after", "class")]
    asked = [one for path in paths for one in itertools.islice(admission.natural_choices([path]), 24)]
    assert min(admission.rank(base, tokenizer, asked).values()) > 0.9
    asked = [one for one in admission.natural_reasoning() if one.group in ("workplace", "country")]
    assert min(admission.reason(base, tokenizer, asked).values()) > 0.6


@pytest.mark.slow
def test_the_corpus_makes_the_committed_tokenizer(tmp_path):
    train_tokenizer(corpus.documents, make_tasks.VOCABULARY).save_pretrained(tmp_path)
    made, committed = (json.loads((folder / "tokenizer.json").read_text()) for folder in (tmp_path, MODEL))
    for part in ("model", "added_tokens", "pre_tokenizer", "post_processor", "decoder"):
        assert made[part] == committed[part]


@pytest.mark.slow
def test_a_short_run_makes_every_artefact(tmp_path, monkeypatch):
    """Two steps of pretraining, two of tuning: an untrained base, of which every task is refused."""
    tasks, model = tmp_path / "tasks", tmp_path / "model"
    shutil.copytree(TASKS, tasks)
    for rows_file in tasks.rglob("*.jsonl.gz"):
        rows_file.unlink()
    monkeypatch.setattr("sys.argv", ["make_tasks", "--out", str(model), "--tasks", str(tasks), "--steps", "2"])
    monkeypatch.setattr(admission, "STEPS", 2)
    monkeypatch.setattr(admission, "ROWS", 8)
    make_tasks.main()
    assert sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(model).parameters()) < 1.1e6
    assert not list(tasks.glob("*.yaml")) and len(list((tasks / REFUSED).glob("*.yaml"))) == len(FILES)
    for name, path in FILES.items():
        assert read_rows(tasks / REFUSED / f"{name}.jsonl.gz") == read_rows(path.with_suffix(".jsonl.gz"))
    table = json.loads((tasks / ADMISSION).read_text())
    assert set(table) == set(FILES) and not any(figures["admitted"] for figures in table.values())
