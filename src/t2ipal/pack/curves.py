"""The curves of the pack's trainings: loss, and the figure that is measured beside it, by samples seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from t2ipal.errors import UserError
from t2ipal.io import atomic_path

TITLES = {"clip": "CLIP", "vae": "autoencoder", "generator": "generator", "judge": "judge"}
MEASURED = {"zero_shot": "zero-shot mAP (val)", "psnr": "PSNR in dB", "top1": "top-1"}


def history(directory: Path, name: str) -> list[dict[str, float]]:
    """The log of one training in order of samples; where a killed sitting was repeated, what came last.

    Raises:
        UserError: it has not been trained there.
    """
    path = directory / f"{name}.log.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist: train the pack's {name} first (snakemake pack)")
    kept: list[dict[str, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        while kept and kept[-1]["samples"] >= entry["samples"]:
            kept.pop()
        kept.append(entry)
    return kept


def _panel(axes: Any, title: str, entries: list[dict[str, float]]) -> None:
    samples = [entry["samples"] / 1000 for entry in entries]
    axes.plot(samples, [entry["loss"] for entry in entries], color="tab:blue", linewidth=1)
    axes.set(title=title, xlabel="thousand samples", yscale="log")
    axes.set_ylabel("loss", color="tab:blue")
    measured = next((key for key in MEASURED if key in entries[-1]), None)
    if measured:
        twin = axes.twinx()
        twin.plot(samples, [entry[measured] for entry in entries], color="tab:orange", linewidth=1)
        twin.set_ylabel(MEASURED[measured], color="tab:orange")


def draw(directory: Path, output: Path) -> None:
    """Write a picture (PNG) of the four trainings in ``directory``.

    Raises:
        UserError: one of them has not been trained there.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    histories = {name: history(directory, name) for name in TITLES}
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(9, 5), layout="constrained", dpi=110)
        for axes, (name, entries) in zip(figure.subplots(2, 2).flat, histories.items(), strict=True):
            _panel(axes, TITLES[name], entries)
        with atomic_path(output) as partial:
            figure.savefig(partial, format="png", metadata={"Software": None})
