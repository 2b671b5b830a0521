"""The model card of an exported recogniser: Markdown with the header that a model hub reads."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from t2ipal import benchmarks
from t2ipal.methods import METHODS
from t2ipal.recognition import licences
from t2ipal.recognition.figures import Figure, Table
from t2ipal.recognition.provenance import Provenance

_SOURCES = {
    "captions": "captions",
    "synthetic": "synthetic images",
    "train": "real training images",
}


def cell(text: str) -> str:
    """A text in a cell of a table, whatever it holds."""
    return html.escape(" ".join(text.split())).replace("|", "\\|").replace("`", "&#96;")


def percent(figure: Figure) -> str:
    """``46.0 ± 0.5``, in percent."""
    mean = f"{100 * figure.mean:.1f}"
    return mean if figure.sd is None else f"{mean} ± {100 * figure.sd:.1f}"


def _header(name: str, provenance: Provenance, tables: Sequence[Table], licence: str | None) -> dict[str, Any]:
    features = provenance.description["features"]
    reference = str(features["backbone"])
    header: dict[str, Any] = {"license": licence or "other"}
    if licence is None:
        header |= {"license_name": "see-card", "license_link": "README.md"}
    header |= {
        "library_name": "t2ipal",
        "pipeline_tag": "image-classification",
        "tags": [
            "multi-label-classification",
            "clip",
            "t2i-pal",
            *(["synthetic-data"] if provenance.synthesis else []),
        ],
    }
    if reference.startswith("hf-hub:"):
        header["base_model"] = reference.removeprefix("hf-hub:")
    if tables:
        header["metrics"] = ["mAP"]
        header["model-index"] = [{"name": name, "results": [_result(table) for table in tables]}]
    return header


def _result(table: Table) -> dict[str, Any]:
    wanted = {"mAP": "mAP", "CF1 by calibrated, threshold of each class": "f1"}
    return {
        "task": {"type": "image-classification", "name": "Multi-label image classification"},
        "dataset": {"name": table.protocol, "type": table.benchmark},
        "metrics": [
            {
                "type": wanted[figure.name],
                "value": round(100 * figure.mean, 2),
                "name": f"{figure.name}, %, mean over seeds {', '.join(map(str, table.seeds))}",
            }
            for figure in table.figures
            if figure.name in wanted
        ],
    }


def _weights(sources: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({weight:g})" for name, weight in sources.items())


def render(
    name: str,
    provenance: Provenance,
    tables: Sequence[Table],
    files: Mapping[str, str],
    *,
    classes: Sequence[Mapping[str, Any]],
    onnx: Mapping[str, float] | None,
    with_backbone: bool,
    licence: str | None,
    version: str,
) -> str:
    """The card.

    Args:
        name: of the recogniser.
        provenance: what it was made from.
        tables: what was measured.
        files: what the directory holds, and what each file is.
        classes: label and, with a calibration, threshold and the rest of each class.
        onnx: the largest difference of each output of the ONNX file; None without one.
        with_backbone: whether the image tower is in the directory.
        licence: what the user states for the recogniser, as a hub's identifier.
        version: of t2ipal.
    """
    description = provenance.description
    method = METHODS.get(provenance.method)
    features, synthesis = description["features"], provenance.synthesis
    captions = (provenance.captions or {}).get("settings", {})
    chosen = [_SOURCES[source] for source, role in provenance.sources.items() if role != "learn"]
    environment = Environment(
        loader=PackageLoader("t2ipal.recognition", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown; what is foreign goes through ``cell``
    )
    environment.filters |= {"cell": cell, "percent": percent}
    header = yaml.safe_dump(_header(name, provenance, tables, licence), sort_keys=False, allow_unicode=True, width=1000)
    measured_on = dict.fromkeys(table.benchmark for table in tables)
    own_terms = dict.fromkeys(filter(None, map(benchmarks.attribution, measured_on)))
    return environment.get_template("card.md.j2").render(
        header=header,
        name=name,
        about=method.about if method else None,
        method=provenance.method,
        seed=provenance.seed,
        learned=[_SOURCES[source] for source, role in provenance.sources.items() if role != "choose"],
        chosen=chosen,
        calibrated=description.get("calibration") is not None,
        benchmark=provenance.benchmark,
        features=features,
        clip_licence=licences.of_clip(features),
        captions=provenance.captions,
        caption_sources=_weights(captions.get("sources", {})),
        llm=captions.get("llm", {}).get("model") if "llm" in captions.get("sources", {}) else None,
        corpora=licences.of_texts(captions),
        synthesis=synthesis,
        images=provenance.images,
        generator_licence=synthesis and licences.of_generator(synthesis),
        tables=tables,
        attributions=list(own_terms),
        files=files,
        classes=classes,
        onnx=onnx,
        with_backbone=with_backbone,
        licence=licence,
        version=version,
        fingerprint=provenance.model.name.rpartition("-")[2],
    )
