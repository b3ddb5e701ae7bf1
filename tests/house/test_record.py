"""A benchmark's result says what produced it, and nothing that identifies the machine."""

import importlib.util
import json
import platform
import sys
from pathlib import Path
from types import ModuleType

import pytest
from house.source import ROOT


@pytest.fixture
def record_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_record", ROOT / "benchmarks" / "_record.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/speed.py", "--fast"])
    return module


def test_a_result_says_what_produced_it(record_module: ModuleType):
    path = record_module.record("speed", {"ours_seconds": 1.5}, seeds=[0, 1], rivals={"rival": "1.1"})
    document = json.loads(path.read_text())
    assert document["result"] == {"ours_seconds": 1.5}
    assert document["seeds"] == [0, 1]
    assert document["versions"]["rival"] == "1.1"
    assert {"python", "jax", "flax", "repsim_jax"} <= document["versions"].keys()
    assert {"commit", "dirty", "date"} <= document.keys()
    assert document["machine"]["cores"] >= 1


def test_a_result_names_no_machine_and_no_path(record_module: ModuleType):
    text = record_module.record("speed", {}, seeds=[]).read_text()
    assert not platform.node() or platform.node() not in text
    assert "/" not in json.loads(text)["command"]
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_a_result_that_is_not_a_number_is_refused(record_module: ModuleType):
    with pytest.raises(ValueError, match="JSON"):
        record_module.record("speed", {"ours_seconds": float("nan")}, seeds=[0])
