"""The sections of the configuration, one strict model per stage: every key is described here, once."""

from t2ipal.settings.base import Fraction, Strict, Template
from t2ipal.settings.benchmarks import BenchmarkSettings
from t2ipal.settings.captions import CaptionSettings, CorpusSettings, LlmSettings, SourceName, TemplateSettings
from t2ipal.settings.images import FeatureSettings, SynthesisSettings, VerificationSettings
from t2ipal.settings.learning import (
    AdapterSettings,
    ClipAdapterSettings,
    DualSettings,
    LinearSettings,
    LossSettings,
    PromptSettings,
    RealSettings,
    ScoreSettings,
    TrainingSettings,
)
from t2ipal.settings.runs import BackboneChoice, PackSettings, StudySettings, VariantSettings

__all__ = [
    "AdapterSettings",
    "BackboneChoice",
    "BenchmarkSettings",
    "CaptionSettings",
    "ClipAdapterSettings",
    "CorpusSettings",
    "DualSettings",
    "FeatureSettings",
    "Fraction",
    "LinearSettings",
    "LlmSettings",
    "LossSettings",
    "PackSettings",
    "PromptSettings",
    "RealSettings",
    "ScoreSettings",
    "SourceName",
    "Strict",
    "StudySettings",
    "SynthesisSettings",
    "Template",
    "TemplateSettings",
    "TrainingSettings",
    "VariantSettings",
    "VerificationSettings",
]
