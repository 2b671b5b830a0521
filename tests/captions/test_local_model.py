import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from t2ipal.captions import local_model
from t2ipal.captions.answers import Answer, Request
from t2ipal.captions.caption import Slot
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.llm import LlmSource
from t2ipal.captions.local_model import LocalModel
from t2ipal.errors import UserError
from t2ipal.labels import LabelSet
from t2ipal.settings import LlmSettings

WORDS = ("a", "an", "and", "the", "dog", "cat", "owl", "sits", "runs", "on", "in", "mat", "tree", "sun", "Show", ".")
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def _tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<end>", "<system>", "<user>", "<assistant>"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<end>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved language model of random weights in the layout of the hub."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = _tokenizer(TEMPLATE)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
        initializer_range=0.4,
    )
    directory = tmp_path_factory.mktemp("language-model")
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def settings(model_dir: Path, tmp_path: Path) -> Callable[..., LlmSettings]:
    def make(**keys: Any) -> LlmSettings:
        values = {"model": f"local-dir:{model_dir}", "device": "cpu", "cache": str(tmp_path / "cache"), **keys}
        return LlmSettings(**values)

    return make


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    """The model in a directory that a test may damage."""
    return Path(shutil.copytree(model_dir, tmp_path / "copy"))


def ask(model: LocalModel, requests: list[Request]) -> list[Answer]:
    kept: list[tuple[Request, Answer]] = []
    model.answer(requests, lambda request, answer: kept.append((request, answer)))
    assert [request for request, _ in kept] == requests
    return [answer for _, answer in kept]


def requests(count: int, **changes: Any) -> list[Request]:
    lengths = ["Show a dog", "Show a cat and the owl on the mat in the sun", "Show an owl and a cat"]
    base = Request("m", "the sun", "", temperature=1.0, top_p=0.95, max_tokens=12, seed=0)
    return [replace(base, prompt=lengths[n % 3], seed=n, **changes) for n in range(count)]


def complaint(settings: LlmSettings) -> str:
    with pytest.raises(UserError) as caught:
        ask(LocalModel(settings), requests(1))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_answers_are_words_of_the_model_from_each_request_s_seed(settings: Callable[..., LlmSettings]) -> None:
    answers = ask(LocalModel(settings()), requests(12))
    assert answers == ask(LocalModel(settings()), requests(12))
    assert len({answer.text for answer in answers}) > 6
    assert all(set(answer.text.split()) <= {*WORDS} for answer in answers)
    assert {answer.finished for answer in answers} == {True, False}
    assert all(answer.finished or len(answer.text.split()) <= 12 for answer in answers)


def test_an_answer_depends_on_its_own_request_and_not_on_its_company(settings: Callable[..., LlmSettings]) -> None:
    together = ask(LocalModel(settings(batch_size=12)), requests(12))
    assert ask(LocalModel(settings(batch_size=1)), requests(12)) == together
    assert ask(LocalModel(settings(batch_size=5)), requests(12)[::-1]) == together[::-1]


def test_answers_are_those_of_a_slow_loop_without_padding_and_cache(
    settings: Callable[..., LlmSettings], model_dir: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir)
    expected = []
    for request in requests(6):
        text = f"<system> {request.system} <end> <user> {request.prompt} <end> <assistant>"
        ids, new = tokenizer(text)["input_ids"], []
        generator = torch.Generator().manual_seed(request.seed)
        while len(new) < request.max_tokens and new[-1:] != [1]:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids + new])).logits[0, -1].double()
            noise = -torch.log(-torch.log(torch.rand(len(tokenizer), generator=generator).double()))
            probabilities, order = logits.softmax(-1).sort(descending=True)
            allowed = order[probabilities.cumsum(0) - probabilities < request.top_p]
            new.append(int(allowed[(logits + noise)[allowed].argmax()]))
        finished = new[-1] == 1
        expected.append(Answer(tokenizer.decode(new, skip_special_tokens=True), finished))
    assert ask(LocalModel(settings()), requests(6)) == expected


def test_temperature_zero_does_not_look_at_the_seed(settings: Callable[..., LlmSettings]) -> None:
    answers = ask(LocalModel(settings()), requests(6, temperature=0.0))
    assert answers[:3] == answers[3:]


def test_a_chat_template_without_a_system_role_gets_it_with_the_request(
    settings: Callable[..., LlmSettings], copy: Path
) -> None:
    _tokenizer(TEMPLATE).save_pretrained(copy)
    merged = ask(LocalModel(settings(model=f"local-dir:{copy}")), [
        replace(request, system="", prompt=f"{request.system} {request.prompt}") for request in requests(4)
    ])  # fmt: skip
    _tokenizer(NO_SYSTEM + TEMPLATE).save_pretrained(copy)
    assert ask(LocalModel(settings(model=f"local-dir:{copy}")), requests(4)) == merged


def test_a_model_without_a_chat_template_continues_plain_text(settings: Callable[..., LlmSettings], copy: Path) -> None:
    for path in copy.glob("*template*"):
        path.unlink()
    _tokenizer(None).save_pretrained(copy)
    plain = ask(LocalModel(settings(model=f"local-dir:{copy}")), requests(4))
    _tokenizer("{{ messages[0]['content'] }} Caption:").save_pretrained(copy)
    templated = [replace(r, system="", prompt=f"{r.system} {r.prompt}") for r in requests(4)]
    assert ask(LocalModel(settings(model=f"local-dir:{copy}")), templated) == plain


def test_nothing_is_loaded_while_the_cache_has_the_answers(
    settings: Callable[..., LlmSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = _labels(tmp_path)
    slots = [Slot(number, name) for number, name in enumerate(labels.names)]
    first = LlmSource(labels, settings(prompt="Show {classes}"), Companions(labels, 2), 0)
    captions = first.serve(slots, Taken())
    assert len(first.answers) > 0

    def fail(*_: Any) -> None:
        pytest.fail("loaded")

    monkeypatch.setattr(local_model, "_load", fail)
    again = LlmSource(labels, settings(prompt="Show {classes}"), Companions(labels, 2), 0)
    assert again.serve(slots, Taken()) == captions


def test_the_identity_follows_weights_and_precision(settings: Callable[..., LlmSettings], copy: Path) -> None:
    reference = f"local-dir:{copy}"
    (copy / "a.gguf").write_bytes(b"GGUF" + b"a" * 100)
    (copy / "b.gguf").write_bytes(b"GGUF" + b"b" * 100)
    chosen = [
        settings(), settings(model=reference), settings(dtype="bfloat16"), settings(model="org/model"),
        settings(model="org/model", revision="v2"), settings(model="org/model", gguf="q4.gguf"),
        settings(model=reference, gguf="a.gguf"), settings(model=reference, gguf="b.gguf"),
    ]  # fmt: skip
    identities = [LocalModel(some).identity for some in chosen]
    assert len(set(identities)) == len(identities)
    (copy / "notes.txt").write_text("another file beside it")
    assert LocalModel(settings(model=reference, gguf="a.gguf")).identity == identities[6]


def test_a_model_that_is_not_causal_is_refused(settings: Callable[..., LlmSettings], copy: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 21, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(**small, intermediate_size=16)).save_pretrained(copy)
    told = complaint(settings(model=f"local-dir:{copy}"))
    assert told == (
        f"captions.llm.model 'local-dir:{copy}' is a BertForMaskedLM, not a causal language model; "
        f"choose one that generates text"
    )
    T5ForConditionalGeneration(
        T5Config(vocab_size=21, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).save_pretrained(copy)
    assert "is a T5ForConditionalGeneration, not a causal language model" in complaint(
        settings(model=f"local-dir:{copy}")
    )


def test_a_model_of_an_unknown_kind_is_refused(settings: Callable[..., LlmSettings], copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "abacus"}))
    assert "cannot load captions.llm.model" in complaint(settings(model=f"local-dir:{copy}"))


def test_code_from_a_model_s_directory_is_never_run(settings: Callable[..., LlmSettings], copy: Path) -> None:
    mark = copy / "ran"
    (copy / "code.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (copy / "config.json").write_text(json.dumps({"model_type": "abacus", "auto_map": auto_map}))
    assert "needs code from its repository, which is never run" in complaint(settings(model=f"local-dir:{copy}"))
    assert not mark.exists()


def test_pickled_weights_are_not_read(settings: Callable[..., LlmSettings], copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "holds no *.safetensors file" in complaint(settings(model=f"local-dir:{copy}"))


def test_weights_that_lack_tensors_are_refused(settings: Callable[..., LlmSettings], copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "lack tensors; restore or download them again" in complaint(settings(model=f"local-dir:{copy}"))


def test_damaged_weights_are_named_before_anything_is_loaded(settings: Callable[..., LlmSettings], copy: Path) -> None:
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors' \(config key 'captions\.llm\.model'\) is damaged"):
        LocalModel(settings(model=f"local-dir:{copy}"))


def test_a_missing_tokenizer_is_told(settings: Callable[..., LlmSettings], copy: Path) -> None:
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert "cannot load captions.llm.model" in complaint(settings(model=f"local-dir:{copy}"))


def test_a_gguf_that_is_not_there_is_named_with_those_that_are(
    settings: Callable[..., LlmSettings], copy: Path
) -> None:
    (copy / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        UserError, match=r"'.*/q4\.gguf' \(config key 'captions\.llm\.gguf'\) is missing; .*: other\.gguf"
    ):
        LocalModel(settings(model=f"local-dir:{copy}", gguf="q4.gguf"))


def test_a_gguf_that_is_none_is_told(settings: Callable[..., LlmSettings], copy: Path) -> None:
    (copy / "q4.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(UserError, match=r"'captions\.llm\.gguf'\) is no GGUF file"):
        LocalModel(settings(model=f"local-dir:{copy}", gguf="q4.gguf"))


def test_a_gguf_that_is_cut_off_is_told(settings: Callable[..., LlmSettings], copy: Path) -> None:
    (copy / "q4.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    assert "cannot load captions.llm.model" in complaint(settings(model=f"local-dir:{copy}", gguf="q4.gguf"))


def test_the_hub_out_of_reach_is_one_sentence(
    settings: Callable[..., LlmSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for gguf in (None, "q4.gguf"):
        told = complaint(settings(model="nobody/no-such-model", gguf=gguf))
        assert "'nobody/no-such-model' is not in the cache and the hub cannot be reached; connect, or set local" in told


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A hub that has repository ``a/files`` without any file, and ``a/revisions`` without any revision."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            codes = {"files": "EntryNotFound", "revisions": "RevisionNotFound"}
            self.send_response(404)
            self.send_header("X-Error-Code", codes.get(self.path.split("/")[2], "RepoNotFound"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # in small letters: these go before large ones
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as it may be set outside
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model": "a/none"}, "captions.llm.model 'a/none' is not on the hub, or is private; mend the id or"),
        ({"model": "a/none", "gguf": "q.gguf"}, "captions.llm.model 'a/none' is not on the hub, or is private"),
        ({"model": "a/revisions", "revision": "v9"}, "has no such revision on the hub; mend captions.llm.revision"),
        ({"model": "a/files", "gguf": "q.gguf"}, "has no file 'q.gguf' on the hub; mend captions.llm.gguf"),
        ({"model": "a/files"}, "cannot load captions.llm.model 'a/files': "),
        ({"model": "no id at all"}, "cannot load captions.llm.model 'no id at all': "),
    ],
)
def test_what_the_hub_lacks_is_one_sentence(
    settings: Callable[..., LlmSettings], keys: dict[str, str], told: str
) -> None:
    assert told in complaint(settings(**keys))


def _labels(tmp_path: Path) -> LabelSet:
    path = tmp_path / "labels.yaml"
    path.write_text("classes: [dog, cat, owl]\n")
    return LabelSet.load(path)
