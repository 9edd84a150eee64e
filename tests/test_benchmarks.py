"""What benchmarks share: a page for each machine, and rivals that are there to be run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPERIMENTATOR_RESULTS", str(tmp_path))
    return loaded("_report")


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BARS = {"Speed: steps per second": {"experimentator": 1200.0, "rival <1>": 3.5}}


def test_a_benchmark_adds_a_table_and_a_chart_to_the_page_of_its_machine(report, tmp_path, capsys):
    report.publish("speed", {"experimentator": 1200.0}, "## Speed\n", bars=BARS, quick=False)

    (page,) = (tmp_path / "results").glob("*/README.md")
    assert page.read_text().startswith(f"# {report.device()}\n")
    assert "![Speed: steps per second](speed-steps-per-second.svg)" in page.read_text()
    texts = [text.text for text in ElementTree.parse(page.with_name("speed-steps-per-second.svg")).iter() if text.text]
    assert {"1,200", "rival <1>", "3.50"} <= set(texts)
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["results"] == {"experimentator": 1200.0}
    assert {"date", "device", "python", "versions"} <= json.loads(line).keys()
    assert "## Speed" in capsys.readouterr().out


def test_a_quick_check_keeps_no_figures(report, tmp_path, capsys):
    report.publish("speed", {}, "## Speed\n", bars=BARS, quick=True)

    assert list(tmp_path.iterdir()) == []
    assert "## Speed" in capsys.readouterr().out


def test_every_contender_names_a_rival_and_a_variant_that_is_there(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    contenders = loaded("training").CONTENDERS

    for file, variant, _ in contenders.values():
        text = (BENCHMARKS / "rivals" / file).read_text("utf-8")
        assert variant in text, (file, variant)
    assert len(contenders) == 15
    for name in ("_cases", "_report"):
        sys.modules.pop(name, None)
