"""The optional part-of-speech check: mentions that are no nouns ("dogs train for a race") are dropped.

The lexical miner decides what is a mention; a spaCy tagger then looks at those of one word, since a compound leaves
nothing to ask. That takes over 100 times as long as mining, and taggers err on captions, which often have no verb: on
the COCO sample it drops more right labels than wrong ones (docs/labels.md). So it is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

from t2ipal.errors import UserError
from t2ipal.labels.label_set import LabelSet
from t2ipal.labels.miner import Match
from t2ipal.labels.tokens import normalise
from t2ipal.sequences import batched

# Nouns, names ("TV"), and pronouns ("someone"), in the universal part-of-speech tags.
NOUNS = frozenset({"NOUN", "PROPN", "PRON"})
_TEXTS_AT_ONCE = 256
_UNUSED = ("parser", "ner", "lemmatizer", "senter")


class _Token(Protocol):
    pos_: str


class _Span(Protocol):
    def __getitem__(self, index: int, /) -> _Token: ...


class Document(Protocol):
    """What of a spaCy ``Doc`` is used."""

    def char_span(self, start_idx: int, end_idx: int, *, alignment_mode: str) -> _Span | None:
        """The tokens that overlap characters ``start_idx`` to ``end_idx`` of the text."""


class Tagger(Protocol):
    """What of a spaCy pipeline is used."""

    def pipe(self, texts: Iterable[str], *, batch_size: int) -> Iterable[Document]:
        """The tagged texts."""


def load_tagger(model: str) -> Tagger:
    """The spaCy pipeline ``model`` (an installed package, or a directory) without what is of no use here.

    Raises:
        UserError: spaCy or the model is missing, or the model has no tagger.
    """
    try:
        spacy: Any = import_module("spacy")
    except ImportError:
        raise UserError(
            f"the part-of-speech check with model '{model}' needs spaCy: pip install spacy, and a model for it"
        ) from None
    try:
        pipeline = spacy.load(model, exclude=_UNUSED)
    except OSError:
        raise UserError(
            f"there is no spaCy model '{model}': install it (python -m spacy download en_core_web_sm) or name another"
        ) from None
    if not {"tagger", "morphologizer"} & set(pipeline.pipe_names):
        raise UserError(f"the spaCy model '{model}' has no tagger: name another for the part-of-speech check")
    tagger: Tagger = pipeline
    return tagger


@dataclass(frozen=True)
class CheckedLabelSet(LabelSet):
    """A label set whose mentions a tagger has checked."""

    tagger: Tagger | None = field(default=None, repr=False, hash=False)

    @classmethod
    def of(cls, labels: LabelSet, model: str) -> CheckedLabelSet:
        """``labels``, with mentions checked by the spaCy pipeline ``model``.

        Raises:
            UserError: see ``load_tagger``.
        """
        return cls(labels.file, labels.origin, load_tagger(model))

    def mine(self, text: str) -> tuple[Match, ...]:
        """The mentions in ``text`` that stand the check."""
        assert self.tagger is not None
        return next(mine(self, [text], self.tagger))

    def labels(self, text: str) -> tuple[str, ...]:
        """The classes of these mentions, each once, in the order of the label set."""
        found = {match.label for match in self.mine(text)}
        return tuple(name for name in self.names if name in found)


def mine(labels: LabelSet, texts: Iterable[str], tagger: Tagger) -> Iterator[tuple[Match, ...]]:
    """The mentions in each text but those of one word that the tagger takes for no noun.

    Mentions of classes that are not nouns only stay, too.
    """
    for text, document in _tagged(texts, tagger):
        matches = LabelSet.mine(labels, text)
        free = {(m.start, m.end) for m in matches if len(normalise(m.phrase)) > 1 or not labels.nouns_only(m.label)}
        yield tuple(m for m in matches if (m.start, m.end) in free or _is_noun(m, document))


def _tagged(texts: Iterable[str], tagger: Tagger) -> Iterator[tuple[str, Document]]:
    for batch in batched(texts, _TEXTS_AT_ONCE):
        yield from zip(batch, tagger.pipe(batch, batch_size=_TEXTS_AT_ONCE), strict=True)


def _is_noun(match: Match, document: Document) -> bool:
    # A tokeniser of another mind may have no token at all there: the lexical answer stands.
    span = document.char_span(match.start, match.end, alignment_mode="expand")
    return span is None or span[0].pos_ in NOUNS
