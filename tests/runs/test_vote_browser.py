"""The page in a real browser: votes by keys while the server is killed, and what a person sees at both widths."""

import os
import shutil
import signal
from collections import Counter
from contextlib import contextmanager

import pytest

from algorithms.common.evaluation.verdicts import FILE, read
from vote_setup import SCRIPT, Server, leave_runs, spiced

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEYS = "12ts210 "       # first, second, tie, skip, second, first, tie, skip
SAID = {"1": "first", "2": "second", "t": "tie", "0": "tie", "s": "skip", " ": "skip"}
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
ASKED = "() => !document.getElementById('question').hidden || !document.getElementById('done').hidden"

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]      # root has none
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@contextmanager
def opened(browser, size, server, **options):
    """A window on the page, and what its console and its network told."""
    context = browser.new_context(viewport=dict(zip(("width", "height"), SIZES[size])), **options)
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: request.url.startswith(server.url) or request.url.startswith("data:")
            or told.append(request.url))
    page.goto(server.url)
    page.wait_for_function(ASKED)
    yield page, told
    context.close()


def press(page, key):
    before = page.inner_text("#count")
    page.keyboard.press("Space" if key == " " else key)
    page.wait_for_function("before => document.getElementById('count').textContent !== before", arg=before)


def voted(browser, folder, size, votes, kills):
    """Votes by keys; the server is killed after so many of them and started again. Returns what was seen."""
    leave_runs(folder, votes, answer=lambda name, number: f"Answer {number} by {name[0]}.")
    seen, number, told = [], 0, []
    for stop in (*kills, votes):
        with Server(folder) as server:
            assert f"{votes} pairs of answers, {number} of them done" in server.told
            with opened(browser, size, server) as (page, console):
                while number < stop:
                    key = KEYS[number % len(KEYS)]
                    seen.append((SAID[key], page.inner_text("#first"), page.inner_text("#second")))
                    press(page, key)
                    number += 1
                    assert page.inner_text("#count") == f"{number} of {votes}"
                if number == votes:
                    skipped = Counter(choice for choice, *_ in seen)["skip"]
                    assert page.inner_text("#tally") == f"{votes - skipped} votes, and {skipped} skipped."
                    assert f"data=verdicts data.path={folder / FILE}" in page.inner_text("#after")
                server.end(signal.SIGKILL)
                told += console
    assert told == []
    return seen


def all_kept(folder, seen):
    kept = []
    for one in read(folder / FILE):
        both = [one.left_response, one.right_response]
        first, second = both if one.order == "left_first" else both[::-1]
        kept.append((one.raw, first, second))
        assert one.outcome == {"tie": "tie", "skip": "none"}.get(
            one.raw, "left" if (one.raw == "first") == (one.order == "left_first") else "right")
    assert kept == seen and len(set(seen)) == len(seen)


@pytest.mark.parametrize("size", SIZES)
def test_twenty_votes_by_keys_and_the_server_killed_twice(browser, tmp_path, size):
    all_kept(tmp_path, voted(browser, tmp_path, size, 20, (7, 15)))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_two_hundred_votes_by_keys_and_the_server_killed_twice(browser, tmp_path, size):
    all_kept(tmp_path, voted(browser, tmp_path, size, 200, (61, 140)))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all looks at answers that try the page."""
    with Server(leave_runs(tmp_path_factory.mktemp("spiced"), 60, answer=spiced)) as server:
        yield server


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_whatever_the_answers_are_all_is_in_sight_and_nothing_of_them_runs(browser, server, size, scheme):
    with opened(browser, size, server, color_scheme=scheme) as (page, told):
        for _ in range(8):
            width, height = SIZES[size]
            whole = page.evaluate("(one => [one.scrollWidth, one.scrollHeight])(document.documentElement)")
            assert whole == [width, height], "no scrolling but inside a card"
            for place in ("#prompt", "#first", "#second", *(f"[data-choice={one}]" for one in set(SAID.values()))):
                box = page.locator(place).bounding_box()
                assert box["height"] >= 40 and 0 <= box["x"] and box["x"] + box["width"] <= width
                assert 0 <= box["y"] and box["y"] + box["height"] <= height
            assert page.locator(".text script, .text img, .text b").count() == 0
            assert "better?" in page.title()
            press(page, "1")
        assert told == []


def test_text_is_shown_to_the_letter(browser, tmp_path):
    leave_runs(tmp_path, 1, answer=lambda name, number: SCRIPT if name == "dpo-run" else "a\n\n  b\tc")
    with Server(tmp_path) as server, opened(browser, "phone", server) as (page, told):
        assert {page.locator(place).evaluate("one => one.textContent") for place in ("#first", "#second")} == {
            SCRIPT, "a\n\n  b\tc"}
        server.end(signal.SIGKILL)
        page.keyboard.press("1")
        page.wait_for_selector("#notice:not([hidden])")
        assert "start it again" in page.inner_text("#notice") and read(tmp_path / FILE) == []


def test_buttons_windows_and_scrolling(browser, server):
    with opened(browser, "desktop", server) as (page, told), opened(browser, "desktop", server) as (other, _):
        assert page.inner_text("#question") != other.inner_text("#question")
        shown = page.inner_text("#question")
        page.reload()
        page.wait_for_function(ASKED)
        assert page.inner_text("#question") == shown
        for choice in ("first", "tie"):
            count = page.inner_text("#count")
            page.click(f"[data-choice={choice}]")
            page.wait_for_function("before => document.getElementById('count').textContent !== before", arg=count)
        assert page.evaluate("document.activeElement === document.body"), "or space would press the button again"
        while max(page.evaluate("['first', 'second'].map(id => document.getElementById(id).scrollHeight)")) < 800:
            press(page, "2")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("PageDown")
        assert max(page.evaluate("['first', 'second'].map(id => document.getElementById(id).scrollTop)")) > 100
        assert told == []
