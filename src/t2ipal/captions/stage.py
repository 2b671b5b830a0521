"""The captions stage: settings in, ``captions.parquet`` and the manifest ``captions.json`` beside it out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from t2ipal.captions.caption import Caption, Register, Source
from t2ipal.captions.companions import Companions
from t2ipal.captions.duplicates import Taken
from t2ipal.captions.manifest import manifest
from t2ipal.captions.mixture import Balance, compose
from t2ipal.captions.templates import PromptSource, TemplateSource
from t2ipal.captions.tokens import TokenCounter
from t2ipal.errors import UserError
from t2ipal.io import atomic_path, canonical_json, write_json
from t2ipal.labels import LabelSet
from t2ipal.settings import CaptionSettings

SCHEMA = pa.schema(
    [
        ("caption_id", pa.string()),
        ("text", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("requested", pa.list_(pa.string())),
        ("source", pa.string()),
        (
            "mentions",
            pa.list_(
                pa.struct([("label", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("phrase", pa.string())])
            ),
        ),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)


class StageSettings(CaptionSettings):
    """What this stage is told: the section ``captions``, the label set and the seed."""

    labels: str = Field(description="Label set: name of a shipped one, or path of a YAML file.")
    labels_identity: str = Field("", description="Hash of the label set: part of the fingerprint only.")
    tokenizer_identity: str = Field("", description="Hash of the tokenizer: part of the fingerprint only.")
    identities: dict[str, str] = Field({}, description="Hashes of the files it reads: part of the fingerprint only.")
    seed: int = Field(ge=0, description="Seed of the captions.")


def sources(labels: LabelSet, settings: StageSettings, rng: np.random.Generator) -> dict[str, Source]:
    """The configured sources, and templates in any case, which stand in for the others.

    Raises:
        UserError: a source's files or model are not fit.
    """
    companions = Companions(labels, settings.max_classes, settings.template.pairs)
    found: dict[str, Source] = {"template": TemplateSource(labels, companions, rng, settings.template.attributes)}
    if "prompts" in settings.used:
        found["prompts"] = PromptSource(labels, settings.seed)
    if "llm" in settings.used:
        from t2ipal.captions.llm import LlmSource

        found["llm"] = LlmSource(labels, settings.llm, companions, settings.seed)
    if "corpus" in settings.used:
        from t2ipal.captions.corpus import CorpusSource

        found["corpus"] = CorpusSource(labels, settings.corpus, settings.seed)
    return found


def registers() -> dict[str, Register]:
    """Templates differ in few words and are compared as they stand; what others write, also by nearness."""
    exact, near = Taken(near=False), Taken(near=True)
    return {"template": exact, "prompts": exact, "llm": near, "corpus": near}


def _balance(settings: StageSettings) -> Balance:
    weights = dict(sorted(settings.shares.items()))
    limits = {name: int(count) for name, count in weights.items()} if settings.counts else {}
    return Balance(settings.total, weights, limits, settings.floor, settings.cap)


def row(caption: Caption, tokens: int, context: int) -> dict[str, Any]:
    """A caption as a row of ``captions.parquet``, by ``SCHEMA``."""
    return {
        "caption_id": caption.caption_id,
        "text": caption.text,
        "labels": list(caption.labels),
        "requested": list(caption.requested),
        "source": caption.source,
        "mentions": [mention._asdict() for mention in caption.mentions],
        "tokens": tokens,
        "truncated": tokens > context,
    }


def _parsed(settings: Mapping[str, Any], operation: Mapping[str, Any]) -> StageSettings:
    values = {**settings, "llm": {**settings["llm"], **operation}} if "llm" in settings else settings
    try:
        return StageSettings.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserError(f"captions settings: key '{key}': {problem['msg']}") from None


def _label_set(settings: StageSettings) -> LabelSet:
    labels = LabelSet.load(settings.labels)
    if settings.tagger is None:
        return labels
    from t2ipal.labels.grammar import CheckedLabelSet

    return CheckedLabelSet.of(labels, settings.tagger)


def _warn(cut: int, count: int, tokenizer: str, context: int) -> None:
    if cut:
        print(
            f"t2ipal captions: warning: {cut} of {count} captions have more than the {context} tokens that "
            f"{tokenizer} reads; their ends are lost on it",
            file=sys.stderr,
        )


def write_captions(
    settings: Mapping[str, Any], output: Path, operation: Mapping[str, Any] | None = None, device: str = "cpu"
) -> None:
    """Write exactly ``total`` distinct captions to ``output``, after the manifest ``captions.json`` beside it.

    Columns: caption_id, text, labels (mined from the text, in label-set order), requested, source, mentions (the
    matches that the labels stem from), tokens (of ``captions.tokenizer``), truncated. The rows depend on the
    settings, the files and the models that they name alone; of two totals the smaller one's rows come first.
    ``operation`` holds keys of ``captions.llm`` that only say how to go about it, as the layout splits them off.

    Raises:
        UserError: the settings or the label set do not fit, a source's files or model are not fit, or so many
            distinct captions cannot be made.
    """
    parsed = _parsed(settings, {**(operation or {}), "device": device})
    labels = _label_set(parsed)
    counter = TokenCounter.load(parsed.tokenizer)
    rng = np.random.default_rng(parsed.seed)
    chosen = sources(labels, parsed, rng)
    mixture = compose(labels, _balance(parsed), chosen, registers(), rng)
    tokens = counter.count([caption.text for caption in mixture.captions])
    rows = [row(caption, count, counter.context) for caption, count in zip(mixture.captions, tokens, strict=True)]
    truncated = sum(found["truncated"] for found in rows)
    _warn(truncated, len(rows), parsed.tokenizer, counter.context)
    facts = {name: source.facts() for name, source in chosen.items()}
    document = {
        **manifest(mixture, labels.names, facts),
        "tokens": {"most": max(tokens), "context": counter.context, "truncated": truncated},
        "settings": dict(settings),
    }
    metadata = {b"t2ipal": canonical_json({"settings": dict(settings)}).encode()}
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata(metadata))
    write_json(output.with_suffix(".json"), document)
    with atomic_path(output) as partial:
        pq.write_table(table, partial)
