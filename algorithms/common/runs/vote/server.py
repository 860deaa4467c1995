"""The page on which a person votes, served on loopback to whoever knows the token in its address.

Other pages in the same browser cannot reach it: the Host header must name this machine (a foreign name that resolves
to it would not), an Origin must be the page's own, and nothing it sends may be framed, cached or read elsewhere.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...support.errors import UserError
from .ballot import CHOICES, Ballot, shown

HERE = Path(__file__).parent
FILES = (("", "page.html", "text/html"),
         ("page.css", "page.css", "text/css"),
         ("page.js", "page.js", "text/javascript"))
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII)
WINDOW = re.compile(r"[\w-]{1,64}", re.ASCII)
LONGEST = 4096      # bytes of a request's body
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                               "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                               "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin"}


class Guard:
    """Answers only requests that come from the page, or that open it; all else ends here."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"],
                                      *((name.encode(), value.encode()) for name, value in HEADERS.items())]
            await send(message)

        refusal = self.refusal(scope) if scope["type"] == "http" else PlainTextResponse("", 404)
        await (refusal or self.app)(scope, receive, sealed)

    def refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not LOOPBACK.fullmatch(hosts[0]):
            return PlainTextResponse("This page answers to 127.0.0.1 and localhost alone.\n", 403)
        if origins not in ([], [f"http://{hosts[0]}"]):
            return PlainTextResponse("This page answers to no other page.\n", 403)
        given = scope["path"].split("/")[1].encode(errors="replace")
        if not hmac.compare_digest(given, self.token.encode()):
            return PlainTextResponse("No such page: its address is the one in the terminal where the server runs; "
                                     "each start has its own.\n", 404)
        return None


def application(ballot: Ballot, token: str, after: Sequence[str]) -> ASGIApp:
    """The page at ``/TOKEN/``. after: commands to type when all is voted on."""

    def state(window: str, **more: Any) -> Response:
        question, progress = ballot.next(window), ballot.progress()
        asked = question and {"id": question.id, "prompt": question.prompt, "answers": question.answers}
        end = {} if question else {"file": shown(str(ballot.path)), "after": list(after)}
        return JSONResponse({"question": asked, **asdict(progress), **end, **more})

    async def ask(request: Request) -> Response:
        body = await body_of(request)
        return await run_in_threadpool(state, body["window"])

    async def vote(request: Request) -> Response:
        body = await body_of(request)
        question, choice = body.get("question"), body.get("choice")
        if question not in ballot.questions or choice not in CHOICES:
            raise HTTPException(400, "no such question or choice")
        counted = await run_in_threadpool(ballot.vote, question, choice)
        return await run_in_threadpool(state, body["window"], counted=counted)

    files = [Route(f"/{token}/{path}", file(name, kind), methods=["GET"]) for path, name, kind in FILES]
    routes = [*files, Route(f"/{token}/next", ask, methods=["POST"]), Route(f"/{token}/vote", vote, methods=["POST"])]
    app = Starlette(routes=routes, exception_handlers={UserError: told, HTTPException: told})
    return Guard(app, token)


def file(name: str, kind: str) -> Callable[[Request], Response]:
    return lambda request: FileResponse(HERE / name, media_type=kind)


async def body_of(request: Request) -> dict[str, str]:
    """A request's JSON: an object of short texts, the name of its window among them."""
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "expected JSON")
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LONGEST:
            raise HTTPException(413, "too long")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise HTTPException(400, "expected JSON") from None
    if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()) or not (
            WINDOW.fullmatch(body.get("window", ""))):
        raise HTTPException(400, "expected an object with the window's name")
    return body


def told(request: Request, error: Exception) -> Response:
    """What went wrong, for the page to show."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
    return JSONResponse({"error": shown(str(error))}, 500)
