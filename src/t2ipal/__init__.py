"""Texts and synthesised images as training data of multi-label image recognition.

``from t2ipal import Recognizer`` is all that a program needs which uses a trained model (docs/recogniser.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2ipal.recognition.recognizer import Prediction, Recognizer, Unreadable

__all__ = ["Prediction", "Recognizer", "Unreadable"]


def __getattr__(name: str) -> Any:
    """The recogniser, which needs torch, is imported when it is asked for: commands that do without start at once."""
    if name in __all__:
        from t2ipal.recognition import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
