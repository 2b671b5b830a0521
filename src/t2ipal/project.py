"""A project of one's own: a directory with labels, configuration and a Snakefile, from which everything is run."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from t2ipal.config import Config, load, merged, parse
from t2ipal.config_docs import render
from t2ipal.errors import UserError
from t2ipal.io import write_text
from t2ipal.labels import LabelSet

# The checkout that this code lies in: the workflow is run from there.
ROOT = Path(__file__).resolve().parents[2]
_README = """\
# {title}

Recognises: {labels}.

1. Put pictures into `photos`.
2. `snakemake --cores {cores}` here learns from captions and recognises what is in them. The tables that it names at the
   end have a row for each picture.
3. To measure, write `said.csv` with the columns `image` and `labels`, and set `benchmark.annotations: said.csv` in
   `config.yaml`.

Other words for your classes go into `labels.yaml`, every setting into `config.yaml`.
All of it is explained in {docs}.
"""
_SNAKEFILE = """\
# The workflow of t2ipal, run on the configuration beside this file.
include: {path!r}


workflow.default_target = "eval_all"
"""


def parsed_labels(text: str) -> list[str]:
    """Labels as one line of CSV: ``a,b`` or ``"with, comma",b``.

    Raises:
        UserError: there is none, or one stands there twice.
    """
    rows = list(csv.reader([text], skipinitialspace=True)) if text.strip() else []
    labels = [label.strip() for row in rows for label in row if label.strip()]
    if not labels:
        raise UserError("--labels names no label; give them with commas between, as in --labels fox,badger,hedgehog")
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"--labels names '{twice}' twice; leave one out")
    return labels


def create(directory: Path, labels: Sequence[str], cores: int = 4) -> None:
    """Write a project into ``directory``, which must be empty or not there yet.

    Raises:
        UserError: the directory holds something, cannot be written, the labels make no label set, or this is no
            checkout of t2ipal, so that there is no workflow to run.
    """
    workflow = ROOT / "workflow" / "Snakefile"
    if not workflow.is_file():
        raise UserError(f"there is no workflow beside {ROOT / 'src'}: clone t2ipal and install it by pip install -e .")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError(f"'{directory}' is there and not empty; name another directory")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "photos").mkdir()
        listed = yaml.safe_dump({"classes": list(labels)}, allow_unicode=True, sort_keys=False)
        write_text(
            directory / "labels.yaml", f"# Your classes; other words for them: {ROOT / 'docs/labels.md'}\n{listed}"
        )
        LabelSet.load(str(directory / "labels.yaml"))
        write_text(directory / "config.yaml", render(_config()))
        write_text(directory / "Snakefile", _SNAKEFILE.format(path=str(workflow)))
        shutil.copytree(ROOT / "profiles", directory / "profiles")
        said = _README.format(
            title=directory.resolve().name, labels=", ".join(labels), cores=cores, docs=ROOT / "docs" / "own-labels.md"
        )
        write_text(directory / "README.md", said)
    except OSError as error:
        raise UserError(f"cannot write the project '{directory}': {error.strerror}") from None


def _config() -> Config:
    """That of ``config/own-labels.yaml``, with the embedded models named by where they are."""
    own = load(ROOT / "config" / "own-labels.yaml")
    model = Config().synthesis.model.replace("local-dir:", f"local-dir:{ROOT}/")
    return parse(merged(own.model_dump(mode="json"), {"synthesis": {"model": model}}))
