"""What all sections of the configuration are made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _has_one_slot(value: str) -> str:
    if value.count("{}") != 1:
        raise ValueError("must contain {} exactly once, where the class name goes")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
Template = Annotated[str, AfterValidator(_has_one_slot)]
Precision = Literal["float32", "float16", "bfloat16"]


class Strict(BaseModel):
    """Base of every section: immutable, no unknown keys, defaults checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
