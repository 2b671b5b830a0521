"""Label sets: the classes, the words for them, and which classes a text mentions (the noun filter, method.md §1)."""

from t2ipal.labels.files import shipped
from t2ipal.labels.label_set import LabelSet
from t2ipal.labels.miner import Match
from t2ipal.labels.plurals import plural
from t2ipal.labels.tokens import normalise

__all__ = ["LabelSet", "Match", "normalise", "plural", "shipped"]
