"""report.html: true to the table, true to the files, and safe whatever models wrote."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import time

import numpy as np
import pandas as pd
import pytest

from benchmarks.costs import own_parts
from benchmarks.page import charts, meanings, runs
from benchmarks.printed import print_table
from benchmarks.report import collect, publish
from benchmarks.tables import COSTS, JUDGED, METRICS
from report_runs import GOLD, START, failed, figure, known, method, result, save

EVIL = ("<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\n</pre>second line\u202eturned "
        + "w" * 10_000)


def samples(folder, rows):
    """samples.parquet: (prompt_id, prompt, response, gold, picked)."""
    frame = pd.DataFrame(rows, columns=["prompt_id", "prompt", "response", "gold", "picked"])
    frame.assign(finished=True).to_parquet(folder / "samples.parquet", index=False)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    cost = {"seconds": 50.0, "stages": {
        "reference": {"seconds": 10.0, "stages": {}},
        "reward": {"seconds": 25.0, "stages": {"reference": {"seconds": 10.0, "stages": {}}}}}}
    config = {"model": {"name": "org/model"}, "data": {"path": "pairs.jsonl"}, "report": {}, "beta": 0.1}
    trained = method("ppo", GOLD, START, cost=cost, config={**config, "beta": 0.2})
    first = method("sft", START, cost={"seconds": 10.0, "stages": {}}, config=config)
    save(folder, *first, *trained, failed("rrhf"))
    samples(folder / "0", [("p0", "Say <b>hi</b>", "plain", 1.0, True), ("p1", "[1, 2]", "an answer", 0.0, True)])
    samples(folder / "3", [("p0", "Say <b>hi</b>", "left out", 9.0, False), ("p0", "Say <b>hi</b>", EVIL, 1.5, True),
                           ("p1", "[1, 2]", "another answer", 4.0, True)])
    steps = [{"step": step, "loss/policy": 1 / step} for step in range(1, 11)]
    (folder / "3" / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


@pytest.fixture(scope="module")
def page(sweep):
    made = publish(collect([sweep]), sweep)
    return made, (sweep / "report.html").read_text(encoding="utf-8")


def test_it_begins_with_the_tables_words_and_its_warnings(page):
    made, text = page
    words = html.unescape(re.search(r'id="words">(.*?)</span>', text, re.S).group(1))
    assert words == made.words
    answers = [html.unescape(one) for one in re.findall("<dd>(.*?)</dd>", text[text.index('id="answer"'):])]
    assert answers[:3] == [made.advice.take, made.advice.cost, made.advice.doubt]
    parts = ('id="answer"', "rrhf: 1 failed of 1 runs", "<svg", 'id="words"', "All figures")
    places = [text.index(one) for one in parts]
    assert places == sorted(places)
    facts = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text[:text.index("<h1>")])
    assert facts == [("Model", "org/model"), ("Data", "pairs.jsonl"), ("Budget", "the same labels"),
                     ("Compared", "sft, ppo, rrhf"), ("Runs", "6 finished of 7, 3 seeds, 4 prompts each")]


def test_nothing_that_a_model_wrote_is_markup(page):
    _, text = page
    assert text.count("<script>") == 1 and "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "\x1b" not in text and "\\x1b[31m\n" in text
    assert "\u202e" not in text and "\\u202eturned" in text and "w" * 1501 not in text
    assert "Say &lt;b&gt;hi&lt;/b&gt;" in text
    script = re.search(r"<script>(.*?)</script>", text, re.S).group(1)
    told = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{told}'" in text and "default-src 'none'" in text


def test_nothing_is_loaded_from_elsewhere(page):
    _, text = page
    links = re.findall(r'(?:src|href|action)\s*=\s*["\']?([^"\' >]+)', text)
    assert not [link for link in links if not link.startswith("#") and "alert" not in link and link != "x"]
    assert not re.findall(r"url\((?!#)", text) and "@import" not in text


def test_its_figures_are_the_tables(page):
    made, text = page
    for row in made.rows:
        for name in made.shown:
            if one := row.estimates.get(name):
                digits = METRICS[name][1]
                interval = f'<span class="interval">[{one.low:.{digits}f}, {one.high:.{digits}f}]'
                assert f"{one.mean:.{digits}f}{interval}" in text
    assert "10.0" in text and "50.0" in text


def test_a_pair_is_seen_from_both_sides(tmp_path):
    save(tmp_path, *method("sft", [[0, 1, 0, 1]] * 3), *method("dpo", [[5, 6, 5, 6.1], [5, 6, 5.1, 6], [5, 6.1, 5, 6]]))
    made = publish(collect([tmp_path]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert made.best == "dpo"
    assert re.search(r'<td class="better" tabindex="0" title="dpo is better than sft">\+5', text)
    assert re.search(r'<td class="worse" tabindex="0" title="dpo is better than sft">-5', text)
    assert re.search(r'<tr class="best"><th scope="row" data-value="dpo">', text)


def test_many_rows_stand_as_a_square_of_signs(tmp_path):
    """Those that beat most first, each cell with its number where one points; no p is so small that it is zero."""
    jitter = np.random.default_rng(0).normal(0, 0.01, (14, 3, 6))
    runs_ = [run for index in range(14) for run in method(f"m{index:02}", jitter[index] + index)]
    made = publish(collect([save(tmp_path, *runs_)]), tmp_path)
    text = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert made.ranked == [f"m{index:02}" for index in reversed(range(14))]
    square = text.partition('<table class="matrix signs">')[2].partition("</table>")[0]
    assert square.count('<td class="better"') == square.count('<td class="worse"') == len(made.pairs) == 91
    row = made.pairs[0]
    told = f"{row.pair.first} − {row.pair.second}: {row.difference.mean:+.3g} ["
    assert f'title="{told}' in square and row.finding in square and "0.000" not in square
    screen = io.StringIO()
    print_table(made, 100, screen)
    lines = screen.getvalue().splitlines()
    top = lines.index("pairs  a b c d e f g h i j k l m n") + 2
    assert lines[top] == "a m13   " + " +" * 13 and lines[top + 13] == "n m00  - - - - - - - - - - - - -"
    assert "- worse, ~ a difference seen only if" in " ".join(lines[top + 14:top + 18])


def test_answers_begin_with_the_largest_disagreement_and_leave_out_what_was_not_picked(sweep, page):
    _, text = page
    assert text.index("another answer") < text.index("second line") and "left out" not in text
    shown = re.findall(r'data-spread="([^"]+)"', text)
    assert shown == ["4.0", "0.5"]     # |4 − 0| and |1.5 − 1|, by hand


def test_a_row_has_one_colour_wherever_it_is(tmp_path):
    """A start before the methods, and a method without a finished run among them, shift none."""
    runs = method("dpo", GOLD, START, cost={"seconds": 20.0, "stages": {}}) + [failed("rrhf")] + \
        method("ppo", GOLD, START, cost={"seconds": 50.0, "stages": {}})
    for run in runs:
        if run["status"] == "complete":
            run.update(start={"kind": "sft", "identity": "the sft"}, before={"reward/gold": figure(START[0])})
    save(tmp_path, *runs)
    for place, gold in ((0, 1.0), (4, 2.0)):
        samples(tmp_path / str(place), [("p0", "Q", "an answer", gold, True)])
        steps = [{"step": step, "loss/policy": 1 / step} for step in (1, 2)]
        (tmp_path / str(place) / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    made = publish(collect([tmp_path]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [row.label for row in made.rows] == ["sft, start", "dpo", "rrhf", "ppo"]
    for place, row in enumerate(made.rows):
        dots = re.findall(r'--row-(\d+)\)"></span><span class="label">' + row.label, text)
        assert dots and set(dots) == {str(place)}
    assert dict(re.findall(r'data-row="(\w+)" style="--own: var\(--row-(\d)\)"', text)) == {"dpo": "1", "ppo": "3"}
    points = re.findall(r'aria-label="(dpo|ppo): [^"]*seconds"[^>]*fill="var\(--row-(\d)\)"', text)
    assert sorted(points) == 2 * [("dpo", "1")] + 2 * [("ppo", "3")], "on a wide screen and on a phone"
    bars = re.findall(r'aria-label="(dpo|ppo), its own: [^"]*"[^>]*fill="var\(--row-(\d)\)"', text)
    assert bars == [("dpo", "1"), ("ppo", "3")]
    lines = re.findall(r'class="mark-line role-mark.*?stroke="var\(--row-(\d)\)"', text)
    assert {"1", "3"} == set(lines)


def test_a_constant_has_no_interval(tmp_path):
    figures = {"reward/gold": figure(GOLD[0]), "kl/bound": known(1.25), "kl/k1": known(0.5, 0.25, 0.75, "resampled")}
    made = publish(collect([save(tmp_path, result("best_of_n", figures=figures))]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r'<td data-value="1.25">1.250<span class="interval"></span>', text)
    assert re.search(r'<td data-value="0.5">0.500<span class="interval">\[0.250, 0.750\]</span>', text)
    assert made.rows[0].constants == {"kl/bound"}


def test_a_prompt_of_turns_is_shown_as_turns():
    turns = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    assert runs._text(turns) == "system: Be brief.\n\nuser: Why?"
    assert runs._text("[1, 2]") == "[1, 2]" and runs._text("just text") == "just text"


def test_each_stage_is_charged_once():
    """Of 50 seconds 25 are the reward model's, of which 10 its reference's, which training stands on too."""
    cost = {"seconds": 50.0, "stages": {"reference": {"seconds": 10.0, "stages": {}},
                                        "reward": {"seconds": 25.0,
                                                   "stages": {"reference": {"seconds": 10.0, "stages": {}}}}}}
    assert own_parts(cost, "seconds") == {"reference": 10.0, "reward": 15.0, "its own": 25.0}
    assert own_parts({"seconds": 3.0, "stages": {}}, "seconds") == {"its own": 3.0}
    other = {"seconds": 50.0, "stages": {"reference": {"seconds": 10.0, "stages": {}},
                                         "reward": {"seconds": 25.0,
                                                    "stages": {"base": {"seconds": 20.0, "stages": {}}}}}}
    assert own_parts(other, "seconds") == {"reference": 10.0, "base": 20.0, "reward": 5.0, "its own": 15.0}


def test_settings_are_shared_or_told_by_row(sweep, page):
    _, text = page
    assert "beta: 0.1" in text and "beta: 0.2" in text and text.count("model.name: org/model") == 1
    assert "python run.py algorithm=ppo seed=2" in text and "python run.py algorithm=rrhf seed=0" in text


def test_the_frontier_holds_what_none_is_better_and_cheaper_than():
    points = [charts.Point(name, x, y, y, y, "") for name, x, y in
              (("a", 1, 0.0), ("b", 2, 2.0), ("c", 3, 1.0), ("d", 4, 2.0), ("e", 5, 3.0), ("f", 1, -1.0))]
    assert [one.row for one in charts.frontier(points)] == ["a", "b", "e"]
    assert [one.row for one in charts.frontier(points, lower_is_better=True)] == ["f"]


def test_marks_say_what_they_show(page):
    _, text = page
    labels = [html.unescape(one) for one in re.findall(r'aria-label="([^"]+)"', text)]
    gold = next(row for row in page[0].rows if row.algorithm == "ppo").estimates["reward/gold"]
    assert f"ppo: {gold.mean:.3f} [{gold.low:.3f}, {gold.high:.3f}] for 50.0 seconds" in labels
    assert "ppo, reward: 15.0" in labels and "ppo, its own: 25.0" in labels
    assert "ppo, reference: 10.0" in labels, "no other method stands on it"


def test_every_column_has_its_meaning():
    assert all(map(meanings.of, [*METRICS, *(f"{start}NAME" for start in JUDGED)]))
    assert set(meanings.COSTS) >= set(COSTS)


def test_partial_and_empty_results_have_a_page(tmp_path):
    for name, given in (("failed", [failed("ppo")]), ("one", [result("dpo")]), ("bare", [result("dpo", figures={})])):
        folder = save(tmp_path / name, *given)
        publish(collect([folder]), folder)
        text = (folder / "report.html").read_text(encoding="utf-8")
        assert "No method can be recommended" in text and "Pair by pair" not in text
        assert ("How good is ppo?" if name == "failed" else "How good is dpo?") in text


def test_where_nothing_scored_answers_the_page_claims_no_score(tmp_path):
    rng = np.random.default_rng(0)
    save(tmp_path, *(result(name, figures={"perplexity/heldout": figure(rng.normal(2, 1, 6), "perplexity")})
                     for name in ("dpo", "ipo")))
    for place in "01":
        samples(tmp_path / place, [("p0", "Q", "an answer", None, True)])
    publish(collect([tmp_path]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "No method can be recommended: this data cannot tell whose answers are better." in text
    assert "How good the answers are: no gold reward, judge or auditor scored them." in text
    assert "to 1 prompts: read them" in text and "differs most" not in text and "largest disagreement" not in text
    assert "perplexity differs from the column's, in nats per token, on" in text


def test_rows_of_one_alarm_share_a_line(tmp_path):
    cut = [result(name, figures={"eos_rate": figure(ended, "share")})
           for name, ended in (("dpo", [1, 1, 0, 0]), ("ipo", [1, 0, 0, 0]), ("sft", [1] * 4))]
    publish(collect([save(tmp_path, *cut, failed("ppo"), failed("rrhf"))]), tmp_path)
    alarms = re.search(r'<div class="alarm".*?</div>', (tmp_path / "report.html").read_text(encoding="utf-8"), re.S)
    assert re.findall("<li>(.*?)</li>", alarms[0]) == [
        "ppo and rrhf: 1 failed of 1 runs each; see the notes for why.",
        "dpo and ipo: only 25% to 50% of the answers ended before the limit of their length; the others were judged as "
        "they were cut."]


def test_texts_that_were_cut_are_one_alarm_and_counted(tmp_path):
    cut = [result(name, seed, data={"read": 500, "kept": 491, "dropped": {"empty response": 9}, "truncated": count})
           for name, seed, count in (("dpo", 0, 40), ("dpo", 1, 12), ("sft", 0, 0), ("sft", 1, 0))]
    publish(collect([save(tmp_path, *cut)]), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    alarms = re.search(r'<div class="alarm".*?</div>', text, re.S)
    told = "Texts of the data were cut to fit model.max_length: dpo 12 to 40."
    assert re.findall("<li>(.*?)</li>", alarms[0]) == [told]
    table = re.search(r"<h2>The data</h2>.*?</table>", text, re.S)[0]
    assert [re.findall(r'<t[hd][^>]*>([^<]*)<', row) for row in re.findall("<tr>(.*?)</tr>", table, re.S)] == [
        ["read for", "rows read", "records kept", "dropped, and why", "truncated"],
        ["dpo", "500", "491", "9 empty response", "40 or 12"], ["sft", "500", "491", "9 empty response", "0"]]


def many(folder, rows=80, seeds=5):
    """400 runs, each with samples."""
    generator = np.random.default_rng(0)
    found = []
    for index in range(rows):
        found += method("dpo", generator.normal(index / 40, 1, (seeds, 64)), overrides=[f"algorithm.beta={index}"],
                        config={"model": {"name": "m"}, "data": {"path": "d"}, "report": {}, "beta": index})
    save(folder, *found)
    for index in range(len(found)):
        samples(folder / str(index),
                [(f"p{i}", f"prompt {i}", "an answer " * 60, float(i % 7), True) for i in range(64)])


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_sorts_filters_and_runs_nothing_of_the_answers(sweep, page, browser, width, dark):
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    told, asked = [], []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("dialog", lambda dialog: told.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(f"file://{sweep}/report.html")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    labels = "[...document.querySelectorAll('#figures tbody th')].map(one => one.dataset.value)"
    assert tab.evaluate(labels) == ["sft", "ppo", "rrhf"]
    heading = tab.get_by_role("button", name="gold", exact=True)
    heading.click()
    assert tab.evaluate(labels) == ["ppo", "sft", "rrhf"]      # from the most; without a figure last
    heading.press("Enter")
    assert tab.evaluate(labels) == ["sft", "ppo", "rrhf"]
    assert tab.locator(".answer:visible").count() == 4
    tab.locator("#rows input[value=sft]").uncheck()
    assert tab.locator(".answer:visible").count() == 2
    tab.fill("#search", "second line")
    assert tab.locator(".asked:visible").count() == 1 and tab.locator("#shown").inner_text() == "1 of 2 prompts"
    points = "figure.first [aria-roledescription=point]:visible"
    tab.locator(points).first.focus()
    assert "seconds" in tab.locator("#tip").inner_text()
    heading.focus()
    assert "true reward" in tab.locator("#tip").inner_text()
    tab.keyboard.press("Escape")
    assert not tab.locator("#tip").is_visible()
    cell = tab.locator(".matrix td[tabindex]").first
    cell.focus()
    assert "no difference seen" in tab.locator("#tip").inner_text()
    tab.locator("#figures button").nth(2).hover()
    assert "start" in tab.locator("#tip").inner_text()
    wide = "[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth > one.clientWidth + 1)"
    hints = "[...document.querySelectorAll('.hint')].map(one => one.getClientRects().length > 0)"
    assert tab.evaluate(wide) == tab.evaluate(hints) and any(tab.evaluate(hints)) == (width == 390)
    assert told == [] and asked == [f"file://{sweep}/report.html"]
    assert tab.locator("figure.first svg:visible").count() == 1
    colour = tab.locator(points).first.evaluate("one => getComputedStyle(one).fill")
    assert colour.startswith("rgb") and colour != "rgb(0, 0, 0)"     # the page's variable reached the picture
    tab.emulate_media(media="print")
    assert not tab.locator(".controls").first.is_visible()
    ink = tab.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(28, 32, 36)", "paper is light"
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("[...document.querySelectorAll('details')].every(one => one.open)")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not tab.evaluate("[...document.querySelectorAll('details')].some(one => one.open)")
    tab.close()


@pytest.mark.browser
def test_a_matrix_is_one_stop_of_the_keyboard_and_arrows_go_on(tmp_path, browser):
    save(tmp_path, *[run for name in ("sft", "dpo", "ppo") for run in method(name, GOLD)])
    publish(collect([tmp_path]), tmp_path)
    tab = browser.new_page()
    tab.goto(f"file://{tmp_path}/report.html")
    stops = tab.locator(".matrix td[tabindex='0']")
    assert stops.count() == 1
    stops.focus()
    where = "[document.activeElement.parentNode.sectionRowIndex, document.activeElement.cellIndex]"
    met = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"):    # past the diagonal, and not out of the table
        tab.keyboard.press(key)
        met.append(tab.evaluate(where))
    assert met == [[0, 3], [1, 3], [1, 1], [1, 1]] and stops.count() == 1
    assert "no difference seen" in tab.locator("#tip").inner_text()
    tab.close()


@pytest.mark.browser
def test_without_scripts_there_are_pictures_answers_and_meanings(sweep, page, browser):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 900})
    tab = context.new_page()
    tab.goto(f"file://{sweep}/report.html")
    assert tab.locator("figure svg:visible").count() >= 3 and tab.locator(".answer:visible").count() == 4
    assert not tab.locator(".controls").first.is_visible() and tab.locator(".hint").first.is_visible()
    tab.locator("summary", has_text="What the columns mean").click()
    assert "The true reward" in tab.locator(".meanings dd").first.inner_text()
    context.close()


@pytest.mark.browser
@pytest.mark.slow
def test_a_page_of_400_runs_is_small_and_opens(tmp_path, browser):
    many(tmp_path)
    publish(collect([tmp_path]), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    begun = time.perf_counter()
    tab.goto(f"file://{tmp_path}/report.html")
    assert tab.locator("#figures tbody tr").count() == 80
    tab.evaluate("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")     # drawn
    assert time.perf_counter() - begun < 3
