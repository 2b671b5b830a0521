import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from t2ipal.captions import answers
from t2ipal.captions.answers import Answer, Answers, Request
from t2ipal.errors import UserError

REQUEST = Request(
    model="m", system="s", prompt="a café", temperature=0.5, top_p=0.9, max_tokens=7, seed=3
)  # fmt: skip


def test_the_key_is_the_hash_of_the_whole_request() -> None:
    text = (
        '{"max_tokens":7,"model":"m","prompt":"a café","seed":3,"system":"s","temperature":0.5,"top_p":0.9}'
    )  # fmt: skip
    assert REQUEST.text == text
    assert REQUEST.key == hashlib.sha256(text.encode()).hexdigest()
    changes = {"model": "n", "system": "", "prompt": "b", "temperature": 0.6, "top_p": 1.0, "max_tokens": 8, "seed": 4}
    keys = {replace(REQUEST, **{name: value}).key for name, value in changes.items()} | {REQUEST.key}
    assert len(keys) == len(changes) + 1


def test_answers_are_found_again_by_another_opening(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directory" / "answers.sqlite"
    cache = Answers(path)
    assert cache.find(REQUEST) is None
    cache.keep(REQUEST, Answer("Zwei Hunde – 狗 🐕\nline", finished=False))
    cache.close()
    again = Answers(path)
    assert again.find(REQUEST) == Answer("Zwei Hunde – 狗 🐕\nline", finished=False)
    assert again.find(replace(REQUEST, seed=4)) is None
    assert len(again) == 1


def test_the_first_answer_stays(tmp_path: Path) -> None:
    cache = Answers(tmp_path / "a.sqlite")
    cache.keep(REQUEST, Answer("first", True))
    cache.keep(REQUEST, Answer("second", True))
    assert cache.find(REQUEST) == Answer("first", True)


def test_the_file_says_what_was_asked_and_when(tmp_path: Path) -> None:
    Answers(tmp_path / "a.sqlite").keep(REQUEST, Answer("text", True))
    row = sqlite3.connect(tmp_path / "a.sqlite").execute("SELECT key, request, asked_at FROM answers").fetchone()
    assert row[0] == REQUEST.key
    assert json.loads(row[1])["prompt"] == "a café"
    assert row[2].startswith("20")


def test_a_kept_answer_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    code = f"""
import os, signal
from pathlib import Path
from t2ipal.captions.answers import Answer, Answers, Request
cache = Answers(Path({str(path)!r}))
for seed in range(3):
    cache.keep(Request("m", "s", "a café", 0.5, 0.9, 7, seed), Answer(f"text {{seed}}", True))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == -9
    cache = Answers(path)
    assert [cache.find(replace(REQUEST, seed=seed)) for seed in range(3)] == [
        Answer(f"text {seed}", True) for seed in range(3)
    ]


def test_several_processes_make_and_fill_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.sqlite"
    code = f"""
import sys
from pathlib import Path
from t2ipal.captions.answers import Answer, Answers, Request
cache = Answers(Path({str(path)!r}))
for seed in range(100):
    for prompt in ("shared", sys.argv[1]):
        request = Request("m", "s", prompt, 0.5, 0.9, 7, seed)
        cache.keep(request, Answer(sys.argv[1], True))
        assert cache.find(request) is not None
"""
    children = [subprocess.Popen([sys.executable, "-c", code, str(number)], env=os.environ) for number in range(4)]
    assert [child.wait(300) for child in children] == [0] * 4
    assert len(Answers(path)) == 5 * 100


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"these are notes of mine, not a database" * 100)
    with pytest.raises(
        UserError, match=rf"captions\.llm\.cache {path} is no cache of answers, .*; move it away, or set"
    ):
        Answers(path)
    assert path.read_bytes().startswith(b"these are notes of mine")


def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE answers (key TEXT)")
    with pytest.raises(UserError, match=rf"{path} is no cache of answers, .*it is a SQLite file of something else"):
        Answers(path)
    tables = sqlite3.connect(path).execute("SELECT sql FROM sqlite_master").fetchall()
    assert tables == [("CREATE TABLE answers (key TEXT)",)]


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    Answers(tmp_path / "a.sqlite").close()
    with sqlite3.connect(tmp_path / "a.sqlite") as ours:
        ours.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="is no cache of answers"):
        Answers(tmp_path / "a.sqlite")


def test_damage_in_the_middle_of_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    cache = Answers(path)
    for seed in range(200):
        cache.keep(replace(REQUEST, seed=seed), Answer("text " * 20, True))
    cache.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x77" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path} is no cache of answers, or is damaged .*malformed"):
        Answers(path).find(REQUEST)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"captions\.llm\.cache .*/file/a\.sqlite cannot be made: .*; set another file"):
        Answers(tmp_path / "file" / "a.sqlite")
    with pytest.raises(UserError, match=rf"captions\.llm\.cache {tmp_path} cannot be used: unable to open"):
        Answers(tmp_path)


def test_a_cache_that_is_held_for_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BUSY_SECONDS", 0.1)
    path = tmp_path / "a.sqlite"
    cache = Answers(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match=rf"captions\.llm\.cache {path}: another process has held it"):
        cache.keep(REQUEST, Answer("text", True))
    holder.execute("COMMIT")
    cache.keep(REQUEST, Answer("text", True))
    assert len(cache) == 1
