"""A small byte-level BPE in CLIP's own format: it reads any text, and has whole tokens for the pack's words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from t2ipal.openmoji.drawings import class_drawings, web_drawings
from t2ipal.openmoji.scenes import WEB_STYLE, sample_scene
from t2ipal.pack.texts import alt_text, dense_caption

CONTEXT_LENGTH = 32
VOCABULARY = 1792
_GENERAL = """
a an the and with of in on at by to for from is are was there near next beside behind under over one two
three four several some many group photo photograph picture image close up view scene standing sitting walking
looking large small big little old young white black red blue green yellow brown background street city town
country house room kitchen living garden farm road field sky water sea beach snow night day morning evening
front side left right top together other each people men women children boys girls dogs cats birds cars
"""


def corpus(texts: int = 20_000) -> Iterable[str]:
    """Texts from which the merges are learned: captions of scenes, names and plurals, general words."""
    rng = np.random.default_rng(0)
    for _ in range(texts):
        scene = sample_scene(rng, "train", WEB_STYLE)
        yield alt_text(rng, scene)
        yield dense_caption(rng, scene)
    drawings = [item for group in class_drawings("train").values() for item in group] + list(web_drawings())
    words = sorted({name for item in drawings for name, _ in item.names})
    for _ in range(400):
        yield from words
        yield from (f"{word}s" for word in words)
        yield from _GENERAL.split()


def train(directory: Path) -> None:
    """Learn the merges and write a ``CLIPTokenizer`` to ``directory``."""
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    learner = CLIPTokenizer(vocab={token: i for i, token in enumerate(special)}, merges=[]).backend_tokenizer
    learner.model = BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    trainer = BpeTrainer(
        vocab_size=VOCABULARY - len(special),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(corpus(), trainer)
    learned = learner.get_vocab()
    merges = _merges(learner.to_str())
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{character}</w>" for character in alphabet)]
    tokens += [token for token in sorted(learned, key=lambda t: learned[t]) if token not in set(tokens)]
    tokens = [token for token in tokens if token not in special] + special
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT_LENGTH)
    tokenizer.save_pretrained(directory)


def _merges(serialised: str) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(serialised)["model"]["merges"]]
