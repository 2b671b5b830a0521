"""What the installed open_clip offers by name, read from its files: importing it would import torch, which is slow."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_QUICK = "-quickgelu"


@cache
def _package() -> Path | None:
    found = find_spec("open_clip")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


@cache
def models() -> tuple[str, ...]:
    """Names of the models, sorted; none if open_clip is not installed."""
    package = _package()
    return tuple(sorted(path.stem for path in package.glob("model_configs/*.json"))) if package else ()


def config(name: str) -> dict[str, Any] | None:
    """A new copy of a model's configuration (``embed_dim``, ``vision_cfg``, ``text_cfg``, ...); None of no model."""
    package = _package()
    if package is None or name not in models():
        return None
    found: dict[str, Any] = json.loads((package / "model_configs" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def canonical(name: str) -> str:
    """A model's name as open_clip files it: OpenAI's ``ViT-B/32`` is ``ViT-B-32``."""
    return name.replace("/", "-")


def clean(tag: str) -> str:
    """A checkpoint's tag as open_clip compares it."""
    return tag.lower().replace("-", "_")


@cache
def checkpoints() -> Mapping[str, Mapping[str, bool]]:
    """Published checkpoints: of each model the tags, and whether they were trained with QuickGELU.

    Empty if this version of open_clip writes its list otherwise than expected: then nothing is known.
    """
    package = _package()
    if package is None:
        return {}
    tree = ast.parse((package / "pretrained.py").read_text(encoding="utf-8"))
    lists: dict[str, dict[str, bool]] = {}
    found: dict[str, dict[str, bool]] = {}
    for name, value in _assignments(tree):
        if isinstance(value, ast.Call):
            lists[name] = _tags(value)
        elif name == "_PRETRAINED" and isinstance(value, ast.Dict):
            found = {
                key.value: lists.get(entry.id, {}) if isinstance(entry, ast.Name) else _tags(entry)
                for key, entry in zip(value.keys, value.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            }
    # As open_clip adds them: each such checkpoint is also one of the model's twin with QuickGELU.
    twins = {name + _QUICK: {tag: True for tag, quick in tags.items() if quick} for name, tags in found.items()}
    return found | {name: tags for name, tags in twins.items() if tags}


def twin(name: str) -> str:
    """The name of the same model with QuickGELU, or of the one without if ``name`` has it."""
    return name.removesuffix(_QUICK) if name.endswith(_QUICK) else name + _QUICK


def _assignments(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield statement.targets[0].id, statement.value


def _tags(call: ast.expr) -> dict[str, bool]:
    """Of ``dict(tag=_pcfg(..., quick_gelu=True), ...)``: the tags, and whether that keyword is true."""
    if not isinstance(call, ast.Call):
        return {}
    return {keyword.arg: _is_quick(keyword.value) for keyword in call.keywords if keyword.arg is not None}


def _is_quick(call: ast.expr) -> bool:
    return isinstance(call, ast.Call) and any(
        keyword.arg == "quick_gelu" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in call.keywords
    )
