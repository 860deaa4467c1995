"""A language model behind an OpenAI-compatible endpoint as a judge.

Nothing that was paid for is lost: replies are kept by the content of their questions, and verdicts are written as they
come. Nothing is guessed: a reply that says no verdict in so many words is asked for once more, and then counts as none,
as does a question that a server refuses which answers others; one that the server never answered has no verdict, and is
asked again by the same command.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from ...support.checks import at_least, one_of, require, within
from ...support.digests import content_hash
from ...support.errors import ConfigError, UserError
from ...support.phases import in_parts, parts_of
from . import wording
from .judge import Court, Judge
from .pairings import Pair
from .records import Verdict

if TYPE_CHECKING:
    from ...support.store import Store

log = logging.getLogger(__name__)
VARIABLE = "OPENAI_API_KEY"
LONGEST = 60.0                              # seconds, of one wait
PASSING = {408, 409, 425, 429}              # statuses that another try may not meet; so are those from 500 on
OF_THE_QUESTION = {400, 413, 422}           # such as one that is too long: the next question may be answered
SPENT = {"insufficient_quota", "billing_hard_limit_reached"}    # codes of a 429 that no wait helps
BETWEEN, REFUSED = "\n---\n", "refused: "   # in a verdict's raw: two replies; what a server said instead of one
PROBE = "Write the letter A, and nothing else."    # tells a server that refuses a question from one that refuses all


class Unanswered(Exception):
    """A question that the server did not answer after all tries."""


class Refused(Exception):
    """A question that the server does not take, at whatever try."""


@dataclass
class Spent:
    """What one judging took; filled in by several threads."""

    calls: int = 0          # answered ones
    kept: int = 0           # replies that were there
    failed: int = 0         # calls that were not answered
    input: int = 0          # tokens
    output: int = 0
    unread: int = 0         # questions without a verdict, the refused ones among them
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


@dataclass
class EndpointJudge(Judge):
    """Asks for a letter, in both orders."""

    model: str
    url: str | None = None              # null: OpenAI's own
    prompt: str = "v1"                  # the wording of the question
    max_tokens: int = 16                # of an answer
    temperature: float | None = 0.0     # null: the model's own
    parallel: int = 4                   # questions at the same time
    timeout: float = 60.0               # seconds without a sign of the server
    tries: int = 6                      # of one question
    wait: float = 1.0                   # seconds before the second try; twice as many before each later one
    price_input: float | None = None    # of a million tokens
    price_output: float | None = None

    orders: ClassVar[tuple[str, ...]] = ("left_first", "right_first")

    def __post_init__(self):
        require(self, "judge", prompt=one_of(wording.QUESTIONS),
                max_tokens=at_least(2),     # one letter and its end: what was cut there may be half a sentence
                temperature=at_least(0).or_null(), parallel=at_least(1), tries=at_least(1), wait=at_least(0),
                timeout=within("(0, inf]", "seconds, above 0"),
                price_input=at_least(0).or_null(), price_output=at_least(0).or_null())
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise ConfigError(f"judge.url: found {parts.scheme}://{parts.hostname or ''}…; expected the address of "
                                  "an endpoint without user and password, such as http://127.0.0.1:8000/v1; fix: the "
                                  f"key comes from the environment: export {VARIABLE}=…")

    @cached_property
    def name(self) -> str:
        """Told apart by all that its replies depend on, besides the question."""
        return f"{Path(self.model).name}-{content_hash(self.decides)[:6]}@{self.prompt}"

    @property
    def decides(self) -> dict[str, Any]:
        return {"url": self.url, "model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature}

    def check(self) -> None:
        if importlib.util.find_spec("openai") is None:
            raise ConfigError("judge: found openai, whose client is not installed; expected the extra judge; "
                              "fix: pip install -e '.[judge]' -c constraints.txt")
        if self.url is None and not os.environ.get(VARIABLE):
            raise ConfigError(f"judge: found no {VARIABLE} in the environment; expected the key of OpenAI's endpoint; "
                              f"fix: export {VARIABLE}=…, or judge.url=… of another endpoint")

    def judge(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        """UserError, after what was judged, where the server cannot be asked, or answers none of many."""
        lost = 0
        with self._asking(court.store) as (asker, pool):
            for part in in_parts("judging", parts_of(pairs, 4 * self.parallel), "pairs"):
                asked = [[pool.submit(asker.verdict, pair, order) for order in self.orders] for pair in part]
                found, ended = [], None
                for futures in asked:
                    try:
                        found.append([future.result() for future in futures])
                    except Unanswered as error:
                        lost, last = lost + 1, error
                    except UserError as error:
                        ended = error
                        asker.stopped.set()
                refused = [one for both in found for one in both if _refused(one)]
                if refused and (ended or not asker.takes(PROBE)):
                    # it may be the settings that it refuses, or its model another one: a fix is to ask these again
                    found = [both for both in found if not any(map(_refused, both))]
                    ended = ended or UserError(
                        f"judge: found {len(refused)} questions {refused[0].raw}, and no answer to a short one; "
                        "expected answers; what was judged is kept; fix: see to judge.max_tokens, judge.temperature "
                        "and judge.model, and run the same command again")
                yield [one for both in found for one in both]
                if ended is not None:
                    raise ended
                if not found:
                    raise UserError(f"judge.url: found no answer to any of {len(part)} pairs ({last}); expected a "
                                    "server that answers; what was judged is kept; fix: see to the server, or raise "
                                    "judge.timeout, judge.tries or judge.wait, and run the same command again")
        if asker.spent.refused:
            log.warning("%s: %d questions were refused by the server; they have no verdict, and are not asked again",
                        self.name, asker.spent.refused)
        if lost:
            log.warning("%s: no answer on %d pairs (%s); the same command asks for them again", self.name, lost, last)

    def written(self, questions: Sequence[str], store: Store) -> list[tuple[str, bool] | None]:
        """A text for each question, and whether it was cut at ``max_tokens``; None where the server refuses it.

        For what is asked of it besides verdicts; texts are kept as all replies are. UserError where the server cannot
        be asked, or left a question without an answer.
        """
        with self._asking(store) as (asker, pool):
            def text(question: str) -> tuple[str, bool] | None:
                try:
                    return asker.reply([{"role": "user", "content": question}])
                except Refused:
                    asker.spent.add(refused=1)
                    return None

            futures, found, lost = [pool.submit(text, one) for one in questions], [], None
            for part in in_parts("asking", parts_of(futures, 4 * self.parallel), "questions"):
                for future in part:
                    try:
                        found.append(future.result())
                    except Unanswered as error:
                        lost = error
        if lost is not None:
            raise UserError(f"judge.url: found no answer to {len(questions) - len(found)} of {len(questions)} "
                            f"questions ({lost}); expected one to each; what was answered is kept; fix: see to the "
                            "server, or raise judge.timeout, judge.tries or judge.wait, and run the same command "
                            "again")
        return found

    @contextmanager
    def _asking(self, store: Store) -> Iterator[tuple[_Asker, ThreadPoolExecutor]]:
        """What asks one question, and the threads to ask in; tells at its end what was spent."""
        import openai

        logging.getLogger("httpx").setLevel(logging.WARNING)    # else it tells of every call
        key = os.environ.get(VARIABLE) or "none"
        client = openai.OpenAI(api_key=key, base_url=self.url or "https://api.openai.com/v1", max_retries=0,
                               timeout=self.timeout)
        asker = _Asker(self, client, store, Spent(), threading.Event(), key)
        pool = ThreadPoolExecutor(self.parallel)
        try:
            yield asker, pool
        finally:
            asker.stopped.set()
            pool.shutdown(cancel_futures=True)
            client.close()
            self._tell(asker.spent)

    def cost(self, spent: Spent) -> float | None:
        """In the currency of the prices; None where they are not told."""
        if self.price_input is None or self.price_output is None:
            return None
        return (spent.input * self.price_input + spent.output * self.price_output) / 1e6

    def _tell(self, spent: Spent) -> None:
        cost = self.cost(spent)
        log.info("%s: %d calls answered, %d failed, %d replies kept from before; %d tokens in, %d out%s; %d without a "
                 "verdict", self.name, spent.calls, spent.failed, spent.kept, spent.input, spent.output,
                 "" if cost is None else f", cost {cost:.4f}", spent.unread)


@dataclass
class _Asker:
    """One question after another, in several threads at once."""

    judge: EndpointJudge
    client: object
    store: Store
    spent: Spent
    stopped: threading.Event
    key: str

    def verdict(self, pair: Pair, order: str) -> Verdict:
        texts = (pair.left_response, pair.right_response)
        texts = texts if order == "left_first" else texts[::-1]
        text = wording.question(self.judge.prompt, pair.prompt, *texts, tie=True)
        said, word = self.answer([{"role": "user", "content": text}])
        if word is None:
            self.spent.add(unread=1)
        sides = ("left", "right") if order == "left_first" else ("right", "left")
        outcome = {"A": sides[0], "B": sides[1], "TIE": "tie", None: "none"}[word]
        return self.judge.verdict(pair, outcome, order, said)

    def takes(self, question: str) -> bool:
        """Whether the server answers a question."""
        try:
            self.call([{"role": "user", "content": question}])
        except (Refused, Unanswered):
            return False
        return True

    def answer(self, turns: list[dict]) -> tuple[str, str | None]:
        """All that was said, and the word of the verdict in it; None where there is none."""
        said: list[str] = []
        try:
            text, cut = self.reply(turns)
            said.append(text)
            if (word := wording.verdict_of(text, cut)) is None:
                again, cut = self.reply([*turns, {"role": "assistant", "content": text},
                                         {"role": "user", "content": wording.AGAIN}])
                said.append(again)
                word = wording.verdict_of(again, cut)
        except Refused as error:
            self.spent.add(refused=1)
            said, word = [*said, f"{REFUSED}{error}"], None
        return BETWEEN.join(said), word

    def reply(self, turns: list[dict]) -> tuple[str, bool]:
        """The text of an answer, and whether it was cut at ``max_tokens``; kept by all that it depends on."""
        described, asked = {**self.judge.decides, "turns": turns}, []

        def build(target: Path, work: Path) -> None:
            asked.append(True)
            text, cut = self.call(turns)
            (target / "reply.json").write_text(json.dumps({"text": text, "cut": cut}), encoding="utf-8")

        folder = self.store.get("reply", described, build)
        if not asked:
            self.spent.add(kept=1)
        told = json.loads((folder / "reply.json").read_text(encoding="utf-8"))
        return told["text"], told.get("cut", False)

    def call(self, turns: list[dict]) -> tuple[str, bool]:
        """The text of an answer, and whether it was cut. Unanswered after all tries; Refused for this question,
        UserError for all of them, where no other try would change it."""
        import openai

        judge, told, asked_for = self.judge, "", 0.0
        limit = "max_completion_tokens" if judge.url is None else "max_tokens"  # as older servers call it
        options = {limit: judge.max_tokens} | ({} if judge.temperature is None else {"temperature": judge.temperature})
        for number in range(judge.tries):
            pause = max(min(judge.wait * 2**(number - 1), LONGEST), asked_for) if number else 0.0
            if self.stopped.wait(pause):
                raise Unanswered("stopped")
            asked_for = 0.0
            try:
                answer = self.client.chat.completions.create(model=judge.model, messages=turns, **options)
                choice = answer.choices[0]
                text, cut = choice.message.content or "", choice.finish_reason == "length"
            except openai.APIStatusError as error:
                told = f"HTTP {error.status_code}: {self._hidden(error.response.text)}"
                if error.status_code in OF_THE_QUESTION:
                    self.spent.add(failed=1)
                    raise Refused(told) from None
                if error.code in SPENT or error.status_code not in PASSING and error.status_code < 500:
                    raise UserError(f"judge: found {told}; expected an answer of {judge.model}; what was judged is "
                                    "kept; fix: see to the model's name, the key and the account, and run the same "
                                    "command again") from None
                asked_for = _seconds(error.response.headers.get("retry-after"))
            except openai.APIError as error:    # timeouts, cut connections
                told = f"{type(error).__name__}: {self._hidden(str(error.__cause__ or error))}"
            except (ValueError, AttributeError, LookupError, TypeError) as error:   # half a body, or no completion
                told = f"no completion: {self._hidden(str(error))}"
            else:
                usage = answer.usage
                self.spent.add(calls=1, input=getattr(usage, "prompt_tokens", 0) or 0,
                               output=getattr(usage, "completion_tokens", 0) or 0)
                return text, cut
            self.spent.add(failed=1)
        raise Unanswered(told)

    def _hidden(self, text: str) -> str:
        """A server's words, short and without the key, which some repeat."""
        text = " ".join((text if self.key == "none" else text.replace(self.key, "***")).split())
        return text if len(text) <= 300 else f"{text[:300]} …"


def _refused(one: Verdict) -> bool:
    return one.outcome == "none" and one.raw.rpartition(BETWEEN)[2].startswith(REFUSED)


def _seconds(header: str | None) -> float:
    """Of a Retry-After, as far as it is a number that can be waited for."""
    try:
        return min(max(float(header or 0), 0.0), LONGEST)
    except ValueError:  # a date
        return 0.0
