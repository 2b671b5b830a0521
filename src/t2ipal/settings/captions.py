"""The sections of stage 1, captions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from t2ipal.settings.base import Fraction, Precision, Strict

SourceName = Literal["template", "prompts", "llm", "corpus"]


class TemplateSettings(Strict):
    """Source `template`: sentence frames. Source `prompts`: the 80 ImageNet templates, one class each."""

    attributes: bool = Field(False, description="Put an adjective before a class in some captions.")
    pairs: str | None = Field(
        None, description="Which classes stand together: CSV of class,class,weight; none: any, equally often."
    )


class LlmSettings(Strict):
    """Source `llm`: a causal language model asked for a photo caption that names given classes."""

    model: str = Field(
        "HuggingFaceTB/SmolLM2-135M-Instruct", description="Language model: hub id, local-dir:PATH, or server name."
    )
    revision: str | None = Field(None, description="Hub revision to pin (commit, tag); none for local-dir.")
    gguf: str | None = Field(None, description="GGUF file inside the model's directory or repository.")
    url: str | None = Field(
        None, description="OpenAI-compatible server, as http://localhost:8000/v1; none: the model runs in the job."
    )
    key_variable: str = Field("OPENAI_API_KEY", description="Environment variable that holds the server's API key.")
    system: str = Field("", description="System message of every request; none if empty.")
    prompt: str = Field(
        "A photo shows {classes}. Describe it in one short sentence.",
        description="Request; {classes} becomes the classes with their articles.",
    )
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; 0 takes the likeliest word.")
    top_p: float = Field(0.95, gt=0, le=1, description="Share of probability that is sampled from.")
    max_tokens: int = Field(40, ge=1, description="Longest answer in tokens.")
    attempts: int = Field(3, ge=1, description="Requests for one caption before a template stands in.")
    batch_size: int = Field(20, ge=1, description="Requests answered together by a model in the job.")
    dtype: Precision = Field("float32", description="Precision of a model in the job.")
    concurrency: int = Field(8, ge=1, description="Requests under way at a server.")
    timeout: float = Field(60.0, gt=0, description="Seconds until a request to a server is given up.")
    retries: int = Field(5, ge=0, description="Retries of a failed request, with growing pauses.")
    cache: str = Field("results/llm-answers.sqlite", description="File that keeps every answer for reruns.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")

    @model_validator(mode="after")
    def _classes_have_a_place(self) -> LlmSettings:
        if self.prompt.count("{classes}") != 1:
            raise ValueError("llm.prompt must contain {classes} exactly once")
        return self


class CorpusSettings(Strict):
    """Source `corpus`: captions that people wrote, from files."""

    files: tuple[str, ...] = Field((), description="Files or patterns; .gz and .zst are read as they are.")
    format: Literal["auto", "coco", "localized-narratives", "text", "csv", "parquet"] = Field(
        "auto", description="Layout of the files: auto (by their names and first bytes) or one for all."
    )
    column: str | None = Field(None, description="Column of the captions in CSV or Parquet.")
    image_column: str | None = Field(None, description="Column of image ids in CSV or Parquet, for the leak check.")
    encoding: str = Field("utf-8", description="Encoding of text files.")
    malformed: Fraction = Field(0.01, description="Share of malformed lines that is put up with.")
    pool: int = Field(4000, ge=1, description="Captions kept per class to choose from.")
    longest: int = Field(60, ge=1, description="Captions of more words are left out.")
    evaluation_ids: tuple[str, ...] = Field(
        (), description="Files of image ids (JSON of COCO, or one id a line) that no caption may belong to."
    )
    allow_evaluation: bool = Field(False, description="Use a corpus with captions of evaluation images all the same.")


class CaptionSettings(Strict):
    """Stage 1: captions with labels mined from their text."""

    total: int = Field(1600, ge=1, description="Captions per seed; a higher number only adds to them.")
    sources: dict[SourceName, Annotated[float, Field(ge=0)]] = Field(
        {"template": 1.0}, description="Weights of the sources: template, prompts, llm, corpus; 0 leaves one out."
    )
    counts: dict[SourceName, Annotated[int, Field(ge=0)]] = Field(
        {}, description="Captions of each source instead of weights; they must add up to total."
    )
    max_classes: int = Field(2, ge=1, le=5, description="Largest number of classes that one caption is asked to name.")
    floor: int | None = Field(
        None,
        ge=0,
        description="Rounds led by every class once, before a corpus is taken as it comes; none: all rounds.",
    )
    cap: int | None = Field(
        None, ge=1, description="Most captions that may name a class, rarest class first; none: no cap."
    )
    tokenizer: str = Field(
        "local-dir:src/t2ipal/pack/models/clip",
        description="CLIP whose tokens are counted: local-dir:PATH, hf-hub:ID, or a model name.",
    )
    tagger: str | None = Field(
        None, description="spaCy model that drops mentions which are no nouns; none: words alone decide."
    )
    template: TemplateSettings = Field(TemplateSettings(), description="Sentence frames.")
    llm: LlmSettings = Field(LlmSettings(), description="Language model.")
    corpus: CorpusSettings = Field(CorpusSettings(), description="Captions that people wrote.")

    @model_validator(mode="after")
    def _sources_fit(self) -> CaptionSettings:
        if self.counts and sum(self.counts.values()) != self.total:
            raise ValueError(
                f"captions.counts add up to {sum(self.counts.values())}, not to captions.total {self.total}"
            )
        if not self.used:
            raise ValueError("captions.sources leaves every source out; give one of them a weight above 0")
        if "corpus" in self.used and not self.corpus.files:
            raise ValueError("captions.corpus.files is empty; name the files of the corpus")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """How much each source in use gives: its count where counts are set, else its weight."""
        chosen = self.counts or self.sources
        return {str(name): float(share) for name, share in chosen.items() if share}

    @property
    def used(self) -> tuple[str, ...]:
        """The sources that captions come from."""
        return tuple(self.shares)
