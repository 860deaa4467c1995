"""A server of chat completions as a judge's endpoint, which behaves as a test has it."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """Where it is, and what it was asked."""

    url: str
    questions: list[str]


def completion(text, **fields):
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m@main", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}, **fields}


def sent(handler, status, body, headers=(), length=None):
    handler.send_response(status)
    for key, value in (("Content-Type", "application/json"), ("Content-Length", str(length or len(body))), *headers):
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


@contextmanager
def serving(behave):
    """`behave(messages, number)` returns a text, or a function of the handler that answers as it likes; number counts
    the calls with these messages."""
    counts, questions, lock = {}, [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions" and asked["model"] == "some/m"
            key = json.dumps(asked["messages"])
            with lock:
                questions.append(key)
                counts[key] = counts.get(key, 0) + 1
            answer = behave(asked["messages"], counts[key])
            try:
                answer(self) if callable(answer) else sent(self, 200, json.dumps(completion(answer)).encode())
            except OSError:  # the client went away
                pass

        def log_message(self, *told):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}/v1", questions)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def honest(messages, number=1):
    """Prefers the good one, wherever it stands."""
    first = messages[0]["content"].partition("=== Reply A\n")[2]
    return "A" if first.startswith("good") else "B"


# How a server fails


def cut_body(handler):
    sent(handler, 200, json.dumps(completion("A")).encode()[:40], length=500)
    handler.close_connection = True


def half_json(handler):
    sent(handler, 200, json.dumps(completion("A")).encode()[:40])


def cut_connection(handler):
    handler.connection.close()


def busy(handler):
    sent(handler, 429, b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}', [("Retry-After", "0.02")])


FAULTS = {"429": busy, "500": lambda handler: sent(handler, 500, b"oops"), "cut body": cut_body, "half JSON": half_json,
          "cut connection": cut_connection, "no completion": lambda handler: sent(handler, 200, b'{"object": "error"}'),
          "no choice": lambda handler: sent(handler, 200, json.dumps(completion("A", choices=[])).encode()),
          "a page": lambda handler: sent(handler, 200, b"<html>A</html>", [("Content-Type", "text/html")]),
          "slow": lambda handler: threading.Event().wait(0.6)}


def half_sentence(handler):
    """Cut at the limit of tokens."""
    told = completion("The better one is A")
    told["choices"][0]["finish_reason"] = "length"
    sent(handler, 200, json.dumps(told).encode())
