import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from t2ipal.captions.stage import write_captions
from t2ipal.config import Config
from t2ipal.errors import UserError
from t2ipal.layout import Layout

SETTINGS: dict[str, Any] = {"total": 45, "max_classes": 2, "labels": "voc2007", "seed": 4}


def test_rows_are_complete_and_identified_by_source_and_text(tmp_path: Path) -> None:
    output = tmp_path / "new" / "captions.parquet"
    write_captions(SETTINGS, output)
    table = pq.read_table(output)
    assert table.column_names == [
        *("caption_id", "text", "labels", "requested", "source"),
        *("mentions", "tokens", "truncated"),
    ]
    rows = table.to_pylist()
    assert len(rows) == len({row["caption_id"] for row in rows}) == 45
    for row in rows:
        assert row["source"] == "template"
        assert row["caption_id"] == hashlib.sha256(("template" + row["text"]).encode()).hexdigest()[:16]
        assert set(row["labels"]) == set(row["requested"])
        assert {mention["label"] for mention in row["mentions"]} == set(row["labels"])
        assert all(row["text"][m["start"] : m["end"]] == m["phrase"] for m in row["mentions"])
        assert 4 < row["tokens"] < 32 and not row["truncated"]
    assert json.loads(table.schema.metadata[b"t2ipal"])["settings"]["seed"] == 4


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_captions(SETTINGS, tmp_path / name / "captions.parquet")
    write_captions({**SETTINGS, "seed": 5}, tmp_path / "c" / "captions.parquet")
    first, second, other = ((tmp_path / name / "captions.parquet").read_bytes() for name in "abc")
    assert first == second != other


def test_the_manifest_counts_classes_and_agreement(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("classes: [room, fox]", encoding="utf-8")
    settings = {**SETTINGS, "labels": str(tmp_path / "own.yaml"), "max_classes": 1, "total": 60}
    write_captions(settings, tmp_path / "captions.parquet")
    rows = pq.read_table(tmp_path / "captions.parquet").to_pylist()
    manifest = json.loads((tmp_path / "captions.json").read_text())
    extra = sum(row["requested"] == ["fox"] and "room" in row["labels"] for row in rows)
    assert extra > 0
    assert manifest["count"] == 60
    assert manifest["agreement"] == pytest.approx(1 - extra / 60)
    assert manifest["per_class"]["room"] == {"first": 30, "requested": 30, "mined": 30 + extra, "both": 30}
    assert manifest["per_class"]["fox"] == {"first": 30, "requested": 30, "mined": 30, "both": 30}
    assert manifest["classes_per_caption"] == {"1": 60 - extra, "2": extra}
    assert manifest["settings"] == settings
    assert manifest["pairs"] == {"room": {"fox": extra}}
    assert manifest["sources"]["template"]["count"] == 60
    assert manifest["topped_up"] == {}


def test_the_layouts_own_settings_are_accepted(tmp_path: Path) -> None:
    config = Config.model_validate({"captions": {"total": 20}})
    write_captions(Layout(config).captions(0).settings, tmp_path / "captions.parquet")
    assert pq.read_table(tmp_path / "captions.parquet").num_rows == 20


@pytest.mark.parametrize(
    ("change", "named"),
    [({"total": 0}, "total"), ({"source": "oracle"}, "source"), ({"colour": 1}, "colour"), ({"seed": -1}, "seed")],
)
def test_settings_that_do_not_fit_are_refused_by_key(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"'{named}'"):
        write_captions({**SETTINGS, **change}, tmp_path / "captions.parquet")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_when_captions_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("classes: [fox]", encoding="utf-8")
    settings = {**SETTINGS, "labels": str(tmp_path / "own.yaml"), "total": 5000, "max_classes": 1}
    with pytest.raises(UserError, match=r"lower captions\.total"):
        write_captions(settings, tmp_path / "out" / "captions.parquet")
    assert not (tmp_path / "out").exists()


def test_a_tagger_that_is_not_installed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"part-of-speech check with model 'en_core' needs|no spaCy model 'en_core'"):
        write_captions({**SETTINGS, "tagger": "en_core"}, tmp_path / "captions.parquet")
