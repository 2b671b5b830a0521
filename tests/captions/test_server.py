import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from t2ipal.captions import server
from t2ipal.captions.answers import Answer, Answers, Request
from t2ipal.captions.caption import Slot
from t2ipal.captions.companions import Companions
from t2ipal.captions.llm import LlmSource
from t2ipal.captions.server import Server
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.settings import LlmSettings

JSON = "application/json"


def completion(text: str | None, finish: str = "stop") -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


class Reply:
    """What the server sends: a body, or an error; or nothing for ``stall`` seconds."""

    def __init__(self, body: bytes = b"", status: int = 200, kind: str = JSON, stall: float = 0.0, **headers: str):
        self.body, self.status, self.kind, self.stall, self.headers = body, status, kind, stall, headers


class Loopback:
    """An HTTP server in this process. ``script`` answers the n-th request (from 0) for a prompt."""

    def __init__(self) -> None:
        self.script: Callable[[dict[str, Any], int], Reply] = lambda body, number: Reply(completion(said(body)))
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.tries: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                loopback.serve(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=[0.02], daemon=True).start()

    def serve(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            self.bodies.append(body)
            self.keys.append(handler.headers["Authorization"])
            self.paths.append(handler.path)
            number = self.tries[said(body)]
            self.tries[said(body)] += 1
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            reply = self.script(body, number)
            stopped = reply.stall and self.stopping.wait(reply.stall)
        finally:
            with self.lock:
                self.under_way -= 1  # before the reply: who has it may ask again at once
        if stopped:
            return
        try:
            handler.send_response(reply.status)
            for name, value in {"Content-Type": reply.kind, **reply.headers}.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(reply.body)))
            handler.end_headers()
            handler.wfile.write(reply.body)
        except OSError:
            handler.close_connection = True

    def close(self) -> None:
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()


def said(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address of these tests is behind a proxy, not even those where nobody answers."""
    monkeypatch.setenv("no_proxy", "*")  # in small letters: these go before large ones


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    made = Loopback()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import _base_client

    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.01)


def settings(url: str, **keys: Any) -> LlmSettings:
    # The time that an answer, or a name that nobody knows, may take on a busy machine; tests of stalls have their own.
    return LlmSettings(**{"url": url, "model": "tiny", "retries": 2, "timeout": 120.0, **keys})


def request(prompt: str = "a dog", **changes: Any) -> Request:
    values = {
        "model": "server:tiny",
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "seed": 3,
    }
    return Request(**{**values, "prompt": prompt, **changes})


def ask(url: str, *requests: Request, **keys: Any) -> dict[str, Answer]:
    kept: dict[str, Answer] = {}
    Server(settings(url, **keys)).answer(requests, lambda request, answer: kept.__setitem__(request.prompt, answer))
    return kept


def complaint(url: str, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        ask(url, request(), **keys)
    sentence = str(caught.value)
    assert sentence.startswith(f"captions.llm.url {url} ")
    assert "\n" not in sentence
    return sentence.removeprefix(f"captions.llm.url {url} ")


def test_a_request_is_a_chat_with_the_sampling_settings(loopback: Loopback) -> None:
    assert ask(loopback.url, request()) == {"a dog": Answer("a dog", finished=True)}
    assert loopback.paths == ["/v1/chat/completions"]
    assert loopback.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a dog"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "seed": 3,
        }
    ]


def test_an_empty_system_message_is_left_out(loopback: Loopback) -> None:
    ask(loopback.url, request(system=""))
    assert loopback.bodies[0]["messages"] == [{"role": "user", "content": "a dog"}]


def test_the_key_comes_from_the_environment(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    ask(loopback.url, request(), key_variable="MY_KEY")
    monkeypatch.delenv("MY_KEY")
    ask(loopback.url, request("a cat"), key_variable="MY_KEY")
    assert loopback.keys == ["Bearer secret-1", "Bearer none"]


def test_an_answer_that_was_cut_off_is_told_from_a_finished_one(loopback: Loopback) -> None:
    loopback.script = lambda body, number: Reply(completion("A dog, which", finish="length"))
    assert ask(loopback.url, request()) == {"a dog": Answer("A dog, which", finished=False)}


def test_an_answer_without_text_is_an_empty_one(loopback: Loopback) -> None:
    loopback.script = lambda body, number: Reply(completion(None))
    assert ask(loopback.url, request()) == {"a dog": Answer("", finished=True)}


def test_half_a_character_does_not_stop_the_cache(loopback: Loopback, tmp_path: Path) -> None:
    loopback.script = lambda body, number: Reply(completion("A dog \ud83d here"))
    answers = Answers(tmp_path / "cache")
    Server(settings(loopback.url)).answer([request()], answers.keep)
    assert answers.find(request()) == Answer("A dog ? here", finished=True)


def test_so_many_requests_as_configured_are_under_way(loopback: Loopback) -> None:
    three = threading.Barrier(3)

    def script(body: dict[str, Any], number: int) -> Reply:
        three.wait(60)
        return Reply(completion(said(body)), stall=0.05)  # a fourth one would be seen in this time

    loopback.script = script
    prompts = [f"dog {number}" for number in range(12)]
    kept = ask(loopback.url, *(request(prompt) for prompt in prompts), concurrency=3)
    assert loopback.most_under_way == 3
    assert kept == {prompt: Answer(prompt, finished=True) for prompt in prompts}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_server_that_recovers_is_asked_again(loopback: Loopback, status: int) -> None:
    loopback.script = lambda body, number: Reply(b"{}", status) if number < 2 else Reply(completion("A dog"))
    assert ask(loopback.url, request()) == {"a dog": Answer("A dog", finished=True)}
    assert loopback.tries["a dog"] == 3


def test_the_pause_that_the_server_asks_for_is_made(loopback: Loopback) -> None:
    busy = Reply(b'{"error": {"message": "slow down"}}', 429, Retry_After="1")
    loopback.script = lambda body, number: busy if number < 1 else Reply(completion("A dog"))
    started = time.monotonic()
    ask(loopback.url, request())
    assert 1.0 <= time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", JSON), (b"{", JSON), (b"{}", JSON), (b"[]", JSON), (b"null", JSON), (b'"text"', JSON), (b"3", JSON),
        (b'{"choices": []}', JSON), (b'{"choices": null}', JSON), (b'{"choices": [{}]}', JSON),
        (b'{"choices": ["x"]}', JSON), (b'{"choices": {"0": 1}}', JSON), (b'{"choices": [{"message": null}]}', JSON),
        (b'{"choices": [{"message": "x"}]}', JSON), (b"\xff\xfe\x00", JSON), (b"<html>hello</html>", "text/html"),
        (b"\x89PNG", "image/png"),
    ],
)  # fmt: skip
def test_rubbish_is_asked_again_and_told_in_the_end(loopback: Loopback, body: bytes, kind: str) -> None:
    loopback.script = lambda sent, number: Reply(body, kind=kind) if number < 2 else Reply(completion("A dog"))
    assert ask(loopback.url, request()) == {"a dog": Answer("A dog", finished=True)}
    loopback.script = lambda sent, number: Reply(body, kind=kind)
    told = complaint(loopback.url)
    assert told.startswith("sends replies that are no chat completions (2 retries)")
    assert loopback.tries["a dog"] == 3 + 3


def test_a_server_that_stalls_is_given_up(loopback: Loopback) -> None:
    loopback.script = lambda body, number: Reply(completion("A dog"), stall=600.0)
    started = time.monotonic()
    told = complaint(loopback.url, timeout=2.5, retries=1)
    assert told.startswith(
        "gives no answer within 2.5 seconds (1 retry); look after the server, raise captions.llm.time"
    )
    assert time.monotonic() - started < 300  # not the 600 that it stalls for
    assert loopback.tries["a dog"] == 2


def test_a_server_that_stalls_once_is_asked_again(loopback: Loopback) -> None:
    loopback.script = lambda body, number: Reply(completion("A dog"), stall=0.0 if number else 600.0)
    assert ask(loopback.url, request(), timeout=2.5) == {"a dog": Answer("A dog", finished=True)}


def test_a_server_that_is_not_there_is_told() -> None:
    told = complaint("http://127.0.0.1:1/v1")
    assert told.startswith("cannot be reached (")
    assert told.endswith("2 retries); start the server or mend the address")


def test_a_name_that_is_no_host_is_told() -> None:
    assert complaint("http://no-such-host.invalid/v1", retries=0).startswith("cannot be reached (")


@pytest.mark.parametrize(
    ("status", "told", "tries"),
    [
        (400, "refuses the request (400: ", 1),
        (401, "refuses the API key (401: ", 1),
        (403, "refuses the API key (403: ", 1),
        (404, "has no model 'tiny' or no such path (404: ", 1),
        (422, "refuses the request (422: ", 1),
        (429, "is asked too often (429: ", 3),
        (500, "fails (500: ", 3),
        (503, "fails (503: ", 3),
    ],
)
def test_what_a_server_refuses_is_one_sentence(loopback: Loopback, status: int, told: str, tries: int) -> None:
    loopback.script = lambda body, number: Reply(b'{"error": {"message": "no,\\nnot today"}}', status)
    assert complaint(loopback.url).startswith(told)
    assert loopback.tries["a dog"] == tries


def test_a_refused_key_names_its_variable(loopback: Loopback) -> None:
    loopback.script = lambda body, number: Reply(b"{}", 401)
    assert "into environment variable MY_KEY" in complaint(loopback.url, key_variable="MY_KEY")


def test_a_long_page_of_an_error_is_cut(loopback: Loopback) -> None:
    loopback.script = lambda body, number: Reply(b"<html>" + b"x" * 5000, 400, kind="text/html")
    assert len(complaint(loopback.url)) < 400


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://localhost", ""])
def test_an_address_that_is_none_is_told_at_once(url: str) -> None:
    with pytest.raises(UserError, match=r"captions\.llm\.url '.*' is no address; write it as http://localhost:8000/v1"):
        Server(settings(url))


def test_what_was_answered_before_a_failure_is_kept(loopback: Loopback) -> None:
    def script(body: dict[str, Any], number: int) -> Reply:
        return Reply(b"{}", 400) if said(body) == "dog 4" else Reply(completion(said(body)))

    loopback.script = script
    kept: list[str] = []
    with pytest.raises(UserError, match="refuses the request"):
        Server(settings(loopback.url, concurrency=1)).answer(
            [request(f"dog {number}") for number in range(8)], lambda request, answer: kept.append(request.prompt)
        )
    assert kept == ["dog 0", "dog 1", "dog 2", "dog 3"]


class _Taken:
    def admit(self, text: str) -> bool:
        return True


def _serve(labels: str, url: str, cache: str) -> list[str | None]:
    """The captions of thirty slots."""
    known = LabelSet.load(labels)
    chosen = settings(url, cache=cache, prompt="Show {classes}", concurrency=2)
    source = LlmSource(known, chosen, Companions(known, 2), 0)
    captions = source.serve([Slot(number, known.names[number % 3]) for number in range(30)], _Taken())
    return [caption and caption.text for caption in captions]


def test_a_killed_run_goes_on_and_asks_only_for_what_is_new(loopback: Loopback, tmp_path: Path) -> None:
    labels, cache = tmp_path / "labels.yaml", tmp_path / "cache"
    labels.write_text("classes: [dog, cat, owl]\n")

    def seen(body: dict[str, Any]) -> Reply:
        return Reply(completion(f"You see {said(body).removeprefix('Show ')} at {body['seed']}."))

    def script(body: dict[str, Any], number: int) -> Reply:
        # By its place, not by how many there are: another one may have come since.
        return seen(body) if loopback.bodies.index(body) < 12 else Reply(stall=600.0)

    loopback.script = script
    command = [sys.executable, __file__, str(labels), loopback.url, str(cache)]
    child = subprocess.Popen(command, env=os.environ)
    deadline = time.monotonic() + 300
    while len(loopback.bodies) < 14 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9
    answered = {body["seed"] for body in loopback.bodies[:12]}
    assert len(Answers(cache)) == len(answered) == 12

    loopback.bodies.clear()
    loopback.script = lambda body, number: seen(body)
    gone_on = _serve(str(labels), loopback.url, str(cache))
    assert len(loopback.bodies) == 30 - 12
    assert not answered & {body["seed"] for body in loopback.bodies}
    assert gone_on == _serve(str(labels), loopback.url, str(tmp_path / "other"))
    assert None not in gone_on


if __name__ == "__main__":
    _serve(*sys.argv[1:])
