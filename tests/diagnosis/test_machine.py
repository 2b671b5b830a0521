from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from t2ipal import devices
from t2ipal.config import Config, parse
from t2ipal.diagnosis import findings, machine
from t2ipal.diagnosis.findings import Finding, Verdict

Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """The findings by name."""

    def found(**values: Any) -> dict[str, Finding]:
        results = values.pop("results", str(tmp_path / "results"))
        config: Config = parse({"results": results, "benchmark": {"downloads": str(tmp_path / "data")}, **values})
        return dict(findings.examine(machine.checks(config)))

    return found


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy is asked for an address of this machine, and no hub is switched off, whatever is set outside."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


HUB = {"features": {"backbone": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}}


def test_this_machine_is_fit_for_the_embedded_benchmark(look: Look) -> None:
    found = look()
    assert {name: finding.verdict for name, finding in found.items() if finding.verdict is not Verdict.OK} == {}
    assert "not needed" in found["hub"].sentence and "nothing is left" in found["downloads"].sentence


def test_a_model_directory_that_is_not_there_is_named(look: Look) -> None:
    found = look(features={"backbone": "local-dir:nowhere"})
    assert found["models"].verdict is Verdict.FAIL and "nowhere" in found["models"].sentence
    assert findings.failed(found.items())


def test_a_results_directory_that_cannot_be_written_is_named(look: Look, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = look(results=str(tmp_path / "file" / "results"))
    assert found["results"].verdict is Verdict.FAIL and "config key 'results'" in found["results"].sentence


def test_a_disk_that_is_too_small_for_images_or_downloads_fails(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda directory: 1000)
    monkeypatch.setattr("t2ipal.budget.plan.free_bytes", lambda directory: 1000)
    assert look()["results"].verdict is Verdict.FAIL
    found = look(benchmark={"name": "voc2007"}, methods=["zero-shot"], **HUB)
    assert found["downloads"].verdict is Verdict.FAIL and "benchmark.downloads" in found["downloads"].mend


def test_the_downloads_of_benchmarks_that_share_a_directory_are_added_up(look: Look, tmp_path: Path) -> None:
    labels = {"voc2007": "voc2007", "coco2014": "coco"}

    def wanted(*names: str) -> float:
        together = [str(tmp_path / f"{name}.yaml") for name in names]
        for name in names:
            (tmp_path / f"{name}.yaml").write_text(f"benchmark: {{name: {name}, labels: {labels[name]}}}\n")
        size, unit = look(together=together, methods=["zero-shot"], **HUB)["downloads"].sentence.split()[1:3]
        return float(size) * {"MB": 1e6, "GB": 1e9}[unit]

    voc, coco = wanted("voc2007"), wanted("coco2014")
    assert 0 < voc < coco and wanted("voc2007", "coco2014") == pytest.approx(voc + coco, abs=1e8)


@pytest.mark.usefixtures("direct")
def test_a_hub_is_asked_only_for_models_that_come_from_it(
    look: Look, monkeypatch: pytest.MonkeyPatch, loopback_hub: Any
) -> None:
    address = f"http://127.0.0.1:{loopback_hub.server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    found = look(**HUB)["hub"]
    assert found.verdict is Verdict.OK and address in found.sentence and "ViT-B-32" in found.sentence


@pytest.mark.usefixtures("direct")
def test_a_hub_that_is_out_of_reach_or_switched_off_is_a_warning(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = look(**HUB)["hub"]
    assert found.verdict is Verdict.WARN and "cannot be reached" in found.sentence and "local-dir" in found.mend
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in look(**HUB)["hub"].sentence


def test_gpus_that_torch_does_not_see_are_a_failure(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU on this machine")
    monkeypatch.setattr(devices, "visible", lambda: ["GPU-1"])
    assert "does not see" in look()["torch"].sentence
    monkeypatch.setattr(devices, "visible", list)
    assert look(features={"device": "cuda"})["torch"].verdict is Verdict.FAIL
    assert look(synthesis={"model": "some/model"})["torch"].verdict is Verdict.WARN


def test_a_package_that_is_too_old_or_not_there_is_named(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "requires", lambda name: ["numpy>=999", "no-such-package", 'x>=1; extra == "dev"'])
    found = look()["packages"]
    assert found.verdict is Verdict.FAIL
    assert "numpy is " in found.sentence and "no-such-package is not installed" in found.sentence
    assert "x" not in found.sentence.split("; ")[-1].split()


def test_a_directory_without_profile_is_a_warning(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert look()["profile"].verdict is Verdict.WARN
