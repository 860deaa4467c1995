"""Votes of people: who is asked what, what becomes of a choice, and whom the page answers."""

import itertools
import random
import re
import socket
import sys
from collections import Counter

import pytest
from omegaconf import OmegaConf
from starlette.testclient import TestClient

from algorithms.common.evaluation.verdicts import FILE, Pair, Verdict, append, finished_runs, pairings, read
from algorithms.common.runs.settings import build
from algorithms.common.runs.vote import VoteConfig
from algorithms.common.runs.vote import ballot as ballots
from algorithms.common.runs.vote.ballot import Ballot, Question, balanced
from algorithms.common.runs.vote.server import HEADERS, LONGEST, application
from algorithms.common.support.errors import ConfigError, UserError
from command_line import composed_alone, invoke
from vote_setup import CHAT, HOSTILE, SCRIPT, leave_runs

TOKEN = "secret-of-this-start"
HOST = "http://127.0.0.1:8123"
PAIR = Pair("p", "Why?", "run-a", "left text", "start", "right text")


def pairs_of(folder, prompts=6, **options):
    return list(pairings(finished_runs(leave_runs(folder, prompts, **options)), "round_robin"))


@pytest.fixture
def ballot(tmp_path):
    return Ballot(tmp_path / FILE, pairs_of(tmp_path), "people", 0)


# What a choice says


@pytest.mark.parametrize("order, choice, outcome", [
    ("left_first", "first", "left"), ("left_first", "second", "right"), ("right_first", "first", "right"),
    ("right_first", "second", "left"), ("left_first", "tie", "tie"), ("right_first", "skip", "none")])
def test_a_choice_is_of_the_answer_that_stood_there(tmp_path, order, choice, outcome):
    question = Question("id", PAIR, order)
    assert question.answers == (["left text", "right text"] if order == "left_first" else ["right text", "left text"])
    mine = Ballot(tmp_path / FILE, [], "people/Ada", 0)
    mine.questions["id"] = question
    assert mine.vote("id", choice)
    (verdict,) = read(tmp_path / FILE)
    assert (verdict.outcome, verdict.judge, verdict.order, verdict.raw) == (outcome, "people/Ada", order, choice)
    assert (verdict.prompt, verdict.left, verdict.left_response, verdict.right, verdict.right_response,
            verdict.sample) == (
        "Why?", "run-a", "left text", "start", "right text", 0)


def test_both_answers_stand_first_about_equally_often():
    pairs = [Pair(f"p{i}", "?", "a", f"x{i}", "b", f"y{i}") for i in range(400)]
    first = Counter(one.order for one in Ballot("nowhere", pairs, "people", 0).questions.values())
    assert 150 < first["left_first"] < 250      # 5 standard deviations
    orders = [one.order for one in Ballot("nowhere", pairs, "people", 0).questions.values()]
    assert orders == [one.order for one in Ballot("nowhere", pairs, "people", 0).questions.values()]
    assert orders != [one.order for one in Ballot("nowhere", pairs, "people", 1).questions.values()]


def test_whenever_one_stops_every_comparison_has_been_asked_about_equally_often():
    pairs = [Pair(f"p{i}", "?", name, "x", "start", "y") for name in "abc" for i in range(20 if name == "a" else 10)]
    found = balanced(pairs, random.Random(0))
    assert sorted(map(repr, found)) == sorted(map(repr, pairs))
    for start in range(0, 30, 3):
        assert sorted(pair.left for pair in found[start:start + 3]) == ["a", "b", "c"]
    rounds = {tuple(pair.left for pair in found[start:start + 3]) for start in range(0, 30, 3)}
    assert len(rounds) > 2, "a fixed turn would tell who it is"
    assert [pair.prompt_id for pair in found if pair.left == "a"] != [f"p{i}" for i in range(20)]


def test_a_pair_of_equal_texts_is_not_asked():
    pairs = [PAIR, Pair("q", "?", "a", "same\r\n", "b", "same\n")]
    assert [one.pair for one in Ballot("nowhere", pairs, "people", 0).questions.values()] == [PAIR]


# Windows, processes, people


def test_windows_show_different_pairs_and_the_last_one_is_counted_once(ballot):
    shown = [ballot.next(window) for window in "abcdef"]
    assert len({one.id for one in shown}) == 6
    assert ballot.next("a") is shown[0], "loaded again it shows the same"
    assert ballot.next("g") is shown[0], "what has been on a screen for longest, where all are"
    for one in shown[1:]:
        assert ballot.vote(one.id, "first")
    assert ballot.vote(shown[0].id, "first") and not ballot.vote(shown[0].id, "second")
    assert ballot.next("a") is ballot.next("new") is None
    assert len(read(ballot.path)) == 6
    with pytest.raises(KeyError):
        ballot.vote("another", "first")


def test_a_later_start_goes_on_where_the_votes_end(ballot):
    first, second = ballot.next("a"), ballot.next("b")
    ballot.vote(first.id, "tie")
    ballot.vote(second.id, "skip")
    again = Ballot(ballot.path, [one.pair for one in ballot.questions.values()], "people", 0)
    assert (again.progress().total, again.progress().voted, again.progress().skipped) == (6, 1, 1)
    asked = []
    while question := again.next("a"):
        asked.append(question.pair.prompt_id)
        again.vote(question.id, "first")
    assert sorted([*asked, first.pair.prompt_id, second.pair.prompt_id]) == [f"p{i:03d}" for i in range(6)]


def test_two_servers_of_a_person_and_another_person(ballot):
    pairs = list(pairings(finished_runs(ballot.path.parent), "round_robin"))
    twin, other = Ballot(ballot.path, pairs, "people", 0), Ballot(ballot.path, pairs, "people/Bo", 0)
    question, same = ballot.next("a"), twin.next("a")
    assert question.pair == same.pair
    assert ballot.vote(question.id, "first") and not twin.vote(same.id, "second")
    assert twin.next("a").pair != same.pair
    assert other.progress().voted == 0
    assert sum(map(other.vote, other.questions, itertools.repeat("tie"))) == 6


def test_a_pair_counts_as_voted_on_whichever_side_stood_left(tmp_path):
    append(tmp_path / FILE, [Verdict("p", "Why?", "start", "right text", "run-a", "left text", "tie", "people",
                                     "left_first", "2026")])
    assert Ballot(tmp_path / FILE, [PAIR], "people", 0).next("a") is None


# What the page is told


@pytest.fixture
def client(ballot):
    return TestClient(application(ballot, TOKEN, ["python run.py next"]), base_url=HOST)


def post(client, path, body, **headers):
    return client.post(f"/{TOKEN}/{path}", json={"window": "w", **body}, headers=headers)


def test_the_page_shows_votes_and_ends(client, ballot):
    found = post(client, "next", {}).json()
    assert {key: found[key] for key in ("total", "voted", "skipped")} == {"total": 6, "voted": 0, "skipped": 0}
    for number in range(6):
        assert found["question"]["id"] in ballot.questions
        choice = {"question": found["question"]["id"], "choice": ("tie", "skip")[number % 2]}
        found = post(client, "vote", choice).json()
        assert found["counted"] and found["voted"] + found["skipped"] == number + 1 == len(read(ballot.path))
    assert found["question"] is None and found["file"] == str(ballot.path) and found["after"] == ["python run.py next"]


def test_the_page_does_not_tell_whose_an_answer_is(tmp_path):
    pairs = pairs_of(tmp_path / "runs", names=("zebra-run", "okapi-run"), answer=lambda name, i: f"{i} {name[1]}")
    client = TestClient(application(Ballot(tmp_path / FILE, pairs, "people", 0), TOKEN, []), base_url=HOST)
    told, ids = [], set()
    for window in map(str, range(6)):
        response = client.post(f"/{TOKEN}/next", json={"window": window})
        told += [response.text, *map(str, response.headers.items())]
        question = response.json()["question"]
        assert set(question) == {"id", "prompt", "answers"}
        ids.add(question["id"])
    told += [client.get(f"/{TOKEN}/{name}").text for name in ("", "page.js", "page.css")]
    assert not [text for text in told if "zebra" in text or "okapi" in text or "p00" in text]
    assert len(ids) == 6 and {len(one) for one in ids} == {16}


def test_text_arrives_as_text_with_its_control_characters_written_out(tmp_path):
    pairs = pairs_of(tmp_path, 2, answer=lambda name, i: HOSTILE if name == "dpo-run" else "one\r\n\ttwo")
    client = TestClient(application(Ballot(tmp_path / FILE, pairs, "people", 0), TOKEN, []), base_url=HOST)
    asked = [client.post(f"/{TOKEN}/next", json={"window": window}).json()["question"] for window in "ab"]
    plain, chat = sorted((one["prompt"] for one in asked), key=len)
    assert set(asked[0]["answers"]) == {f"{SCRIPT}\\u001b[31mred\\u001b[0m \\u202edesrever\\u202c &amp; <b>no bold</b>",
                                        "one\n\ttwo"}
    assert plain == [{"role": "", "text": "Question 0?"}]
    assert [(one["role"], one["text"]) for one in chat] == [
        ("user", "What is a <b>haiku</b>?"), ("assistant", "A poem of three lines."), ("user", "Write one about rain.")]


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get(f"/{TOKEN}/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("", "page.css", "page.js"):
        response = client.get(f"/{TOKEN}/{name}")
        assert response.status_code == 200 and "//" not in response.text.replace("// ", "")
        assert HEADERS.items() <= dict(response.headers).items() and "server" not in response.headers
    assert not re.search(r"<style|<script>|<!--|\son\w+=|\sstyle=", page.text), "what its own policy would refuse"


# Whom the page answers


@pytest.mark.parametrize("path", ["/", "/page.js", "/next", f"/{TOKEN}x/", f"/{TOKEN[:-1]}/", f"/x/{TOKEN}/",
                                  "/%C3%A9/"])
def test_nothing_is_answered_without_the_token(client, path):
    for response in (client.get(path), client.post(path)):
        assert response.status_code == 404 and TOKEN not in response.text
        assert HEADERS.items() <= dict(response.headers).items()


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1:8123", 200), ("localhost:9", 200), ("[::1]:80", 200), ("localhost", 200), ("attacker.example", 403),
    ("attacker.example:8123", 403), ("127.0.0.1.attacker.example", 403), ("localhost.attacker.example", 403), ("", 403),
    ("127.0.0.1:8123@attacker.example", 403), ("0.0.0.0:8123", 403), ("192.168.0.2:8123", 403),
    ("localhost\u00e9", 403)])
def test_only_names_of_this_machine_are_answered(client, host, status):
    for path in ("", "page.js"):
        assert client.get(f"/{TOKEN}/{path}", headers={"host": host.encode("latin-1")}).status_code == status
    assert post(client, "next", {}, host=host.encode("latin-1")).status_code == status


@pytest.mark.parametrize("origin, status", [
    (HOST, 200), ("http://127.0.0.1:8124", 403), ("http://localhost:8123", 403), ("https://127.0.0.1:8123", 403),
    ("https://attacker.example", 403), ("null", 403), ("", 403)])
def test_only_the_page_itself_may_ask(client, origin, status):
    assert post(client, "next", {}, origin=origin).status_code == status
    question = post(client, "next", {}).json()["question"]["id"]
    assert post(client, "vote", {"question": question, "choice": "first"}, origin=origin).status_code == status


def test_two_hosts_or_two_origins_are_refused(client):
    for name, value in (("host", "127.0.0.1:8123"), ("origin", HOST)):
        twice = [(name, value), (name, value)]
        assert client.get(f"/{TOKEN}/", headers=twice[:1]).status_code == 200
        assert client.get(f"/{TOKEN}/", headers=twice).status_code == 403


@pytest.mark.parametrize("body, kind, status", [
    ('{"window": "w"}', "text/plain", 415), ('{"window": "w"}', "application/x-www-form-urlencoded", 415),
    ("{", "application/json", 400), ("[" * 3000, "application/json", 400), ("[]", "application/json", 400),
    ('{"window": 1}', "application/json", 400),
    ('{"window": "<b>"}', "application/json", 400), ("{}", "application/json", 400),
    ("\udcff", "application/json", 400),
    ('"' + "x" * LONGEST + '"', "application/json", 413), ('{"window": "w"}', "application/json", 200)])
def test_a_request_that_the_page_would_not_send(client, body, kind, status):
    raw = body.encode(errors="surrogateescape")
    response = client.post(f"/{TOKEN}/next", content=raw, headers={"content-type": kind})
    assert response.status_code == status and (status == 200) == ("error" not in response.json())


@pytest.mark.parametrize("vote", [{"question": "none", "choice": "first"}, {"choice": "first"}, {"choice": "left"}, {}])
def test_a_vote_that_says_nothing_is_refused(client, ballot, vote):
    question = post(client, "next", {}).json()["question"]["id"]
    response = post(client, "vote", {"question": question, **vote} if vote == {"choice": "left"} else vote)
    assert response.status_code == 400 and read(ballot.path) == []


def test_other_methods_and_paths_are_refused(client):
    assert client.get(f"/{TOKEN}/vote").status_code == 405 and client.post(f"/{TOKEN}/").status_code == 405
    for path in ("../page.html", "server.py"):
        assert client.get(f"/{TOKEN}/{path}").status_code == 404


def test_a_vote_that_cannot_be_kept_is_told_and_asked_again(client, ballot, monkeypatch):
    question = post(client, "next", {}).json()["question"]["id"]

    def full(path, verdicts):
        raise UserError("disk full while writing; fix: free some space")

    with monkeypatch.context() as patched:
        patched.setattr(ballots, "append", full)
        response = post(client, "vote", {"question": question, "choice": "first"})
    assert response.status_code == 500 and response.json() == {"error": "disk full while writing; fix: free some space"}
    assert post(client, "next", {}).json()["question"]["id"] == question
    assert post(client, "vote", {"question": question, "choice": "first"}).json()["counted"]


# The command line


@pytest.mark.parametrize("overrides, message", [
    ([], "runs: found None; expected the folder of finished runs; fix: runs=multirun/…"),
    (["runs=nowhere"], "runs: found no folder nowhere"),
    (["runs=nowhere", "vote.name=a/b"], "vote.name: found 'a/b'; expected a name without /"),
    (["runs=nowhere", 'vote.name=" "'], "vote.name: found ' '; expected a name"),
    (["runs=nowhere", "vote.port=70000"], "vote.port: found 70000; expected 0 to 65535")])
def test_what_cannot_be_voted_on_is_refused(tmp_path, overrides, message):
    ended = invoke("task=vote", *overrides, f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 2 and ended.err.startswith(message)


def test_a_port_that_is_taken_equal_answers_and_a_missing_package_are_told(tmp_path, monkeypatch):
    leave_runs(tmp_path / "runs", 2)
    leave_runs(tmp_path / "equal", 2, answer=lambda name, number: "the same")
    start = ["task=vote", "verdicts.against=round_robin", f"hydra.run.dir={tmp_path}/out"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = invoke(*start, f"runs={tmp_path}/runs", f"vote.port={taken.getsockname()[1]}")
    assert ended.status == 2 and "which cannot be taken (" in ended.err and "fix: vote.port=0" in ended.err
    ended = invoke(*start, f"runs={tmp_path}/equal")
    assert ended.status == 2 and ended.err.startswith("runs: found 2 pairs of answers")
    assert "twice the same" in ended.err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ended = invoke(*start, f"runs={tmp_path}/runs")
    assert ended.status == 2 and "needs the package uvicorn" in ended.err and "pip install -e '.[arena]'" in ended.err


def test_who_votes():
    assert (VoteConfig().judge, VoteConfig("Ada").judge) == ("people", "people/Ada")
    with pytest.raises(ConfigError, match="vote.name"):
        VoteConfig("a\x1b[31m")


# Votes are preferences again


def test_votes_become_records(tmp_path, ballot):
    expected = {}
    for question, choice in zip(list(ballot.questions.values()), ("first", "second", "tie", "skip", "first", "first")):
        ballot.vote(question.id, choice)
        pair, outcome = question.pair, question.outcome(choice)
        if outcome != "none":
            scores = {"left": [1.0, 0.0], "right": [0.0, 1.0], "tie": [0.5, 0.5]}[outcome]
            expected[pair.prompt] = ([pair.left_response, pair.right_response], scores)
    append(ballot.path, [Verdict("p", "?", "a", "x", "b", "y", "left", "auditor", "both", "2026")])
    config = OmegaConf.create({"data": composed_alone("data", "verdicts", f"data.path={ballot.path}")})
    records, report = build(config, ("data",))["data"].records()
    found = {one.prompt if isinstance(one.prompt, str) else CHAT: (one.responses, one.scores) for one in records}
    assert found == expected and len(records) == 5
    assert report.skipped == {"pair without a verdict": 1, "verdict of another judge": 1}
    assert {one.meta["judge"] for one in records} == {"people"}
