"""What benchmarks share: a page for each machine, and rivals that are there to be run."""

from __future__ import annotations

import importlib
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


@pytest.fixture
def scripts(monkeypatch):
    """Loads a script as it is when it runs: what lies beside it can be imported."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    yield importlib.import_module
    for name in ("_cases", "_report", "_asked", "_gpu_report", "training"):
        sys.modules.pop(name, None)


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


def test_a_chart_has_room_for_the_longest_name(report, scripts):
    longest = max(scripts("training").CONTENDERS, key=len)
    drawn = ElementTree.fromstring(report.chart({longest: 1.0, "a": 2.0}, title="rates"))

    names = [one for one in drawn.iter("{http://www.w3.org/2000/svg}text") if one.get("text-anchor") == "end"]
    assert all(float(one.get("x")) > 6 * len(one.text) for one in names)
    assert float(drawn.get("width")) >= float(names[0].get("x")) + 460


def test_a_quick_check_keeps_no_figures(report, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("EXPERIMENTATOR_RESULTS")
    monkeypatch.setattr(report, "__file__", str(tmp_path / "_report.py"))
    report.publish("speed", {}, "## Speed\n", bars=BARS, quick=True)

    assert list(tmp_path.iterdir()) == []
    assert "## Speed" in capsys.readouterr().out


def test_a_trial_run_has_a_page_of_quick_checks_too(report, tmp_path):
    report.publish("speed", {"experimentator": 7.0}, "## Speed\n", bars={"None": {}}, quick=True)

    assert report.latest()["speed"]["results"] == {"experimentator": 7.0}
    assert sorted(path.name for path in tmp_path.glob("results/*/*")) == ["README.md", "speed.md"]


def test_what_the_driver_tells_is_on_the_page(report, monkeypatch):
    told = {
        "--query-gpu=name": ["Card 9"],
        "--query-gpu=memory.total,driver_version": ["81559 MiB, 580.1"],
        "--query-compute-apps=pid,used_memory": ["17, 512", "18, [N/A]"],
        "": ["| NVIDIA-SMI 580.1    Driver Version: 580.1    CUDA Version: 13.0 |"],
    }
    monkeypatch.setattr(report, "_nvidia", lambda *words: told["".join(words[:1])])

    assert report.machine().startswith("Card 9 (81559 MiB, driver 580.1, CUDA 13.0), Python ")
    assert report.gpu_memory() == {17: {"gpu_mib": 512}}


def test_every_contender_names_a_rival_and_a_variant_that_is_there(scripts):
    training = scripts("training")

    for rival in training.CONTENDERS.values():
        text = (BENCHMARKS / "rivals" / rival.file).read_text("utf-8")
        assert f'"{rival.variant}' in text or rival.variant in text.partition('"""')[2].partition('"""')[0], rival
    assert len(training.CONTENDERS) == 32
    usual = training.chosen(training.CASES["cnn"], (), (), False)
    assert len(usual) == 16
    assert not any(rival.is_for_gpu for rival in usual.values())


def test_every_part_of_the_report_of_a_gpu_is_published_under_its_name(scripts):
    for part, (script, _, case, *others) in scripts("_gpu_report").PARTS.items():
        if script.endswith("training.py"):
            groups = others[1:]
            assert part == "-".join(["training", case, *groups])
            assert scripts("training").chosen(scripts("_cases").CASES[case], groups, (), True)
        elif script.endswith("throughput.py"):
            assert part == f"throughput-{case}"


def test_what_was_asked_is_told_from_what_was_measured_alone(scripts):
    asked = scripts("_asked")
    fits = {who: {"ours_to_theirs": 8.5} for who in asked.KERAS}
    history = {
        "throughput-cnn": {"date": "2027-01-02T03:04", "results": {"cnn": {"ratio_to_best_hand": 0.98}}},
        "training-cnn-tensorflow": {"results": {**fits, "TF by hand": {"ours_to_theirs": 0.99}}},
        "training-cnn-torch-jax": {"results": {"torch, CUDA graph of a step": {"ours_to_theirs": 1.0}}},
        "training-cnn-streamed": {"results": {asked.STREAMED: {"ours_to_theirs": 1.25}}},
    }
    rows = [asked.row(one, history) for one in asked.ASKED]

    assert [(row["measured"], row["reached"]) for row in rows] == [
        ("0.980", "yes"),
        ("not measured", "not measured"),
        ("0.990 (without TF by hand, XLA)", "not measured"),
        ("not measured", "not measured"),
        ("8.500", "yes"),
        ("not measured", "not measured"),
        ("1.000", "no"),
        ("not measured", "not measured"),
        ("0.800", "no"),
    ]
    assert rows[0]["on"] == "2027-01-02"


RIVAL = """
import os, sys, time
sys.stdin.readline()
if sys.argv[2] == "broken": sys.exit("no such kernel")
if sys.argv[2] == "hangs": time.sleep(60)
print("ready", flush=True)
for _ in sys.stdin: print(2.0 if "--twice" in os.environ.get("XLA_FLAGS", "") else 1.0, flush=True)
"""


def test_contenders_take_turns_and_what_fails_or_hangs_is_told(scripts, tmp_path, monkeypatch, capsys):
    training = scripts("training")
    monkeypatch.setattr(training, "RIVALS", tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--before")
    (tmp_path / "rival.py").write_text(RIVAL)
    rivals = {
        training.OURS: training.Rival("rival.py", "fine", "json"),
        "slow": training.Rival("rival.py", "fine", "json", xla_flags="--twice"),
        "many": training.Rival("rival.py", "fine", "json", runs=4),
        "broken": training.Rival("rival.py", "broken", "json"),
        "missing": training.Rival("rival.py", "fine", "no_such_package"),
        "hangs": training.Rival("rival.py", "hangs", "json"),
        "late": training.Rival("rival.py", "fine", "json"),
    }
    results = training.measure(training.CASES["mlp"].small(), rivals, 2, 8, 3 / 60)

    assert {who: result.get("failed", result.get("ours_to_theirs")) for who, result in results.items()} == {
        training.OURS: 1.0, "slow": 2.0, "many": 0.25, "broken": "it does not start", "missing": "not installed",
        "hangs": "it does not start", "late": "no time left",
    }  # fmt: skip
    assert "no such kernel" in capsys.readouterr().err


def test_contenders_of_a_quick_check_get_ready_together(scripts, tmp_path, monkeypatch):
    """Each of the two waits for a word that the other leaves."""
    training = scripts("training")
    monkeypatch.setattr(training, "RIVALS", tmp_path)
    monkeypatch.chdir(tmp_path)
    meets = (
        """open(sys.argv[2], "x")\nwhile not os.path.exists({"a": "b", "b": "a"}[sys.argv[2]]): time.sleep(0.01)\n"""
    )
    (tmp_path / "rival.py").write_text(RIVAL.replace('print("ready"', f'{meets}print("ready"'))
    rivals = {training.OURS: training.Rival("rival.py", "a", "json"), "other": training.Rival("rival.py", "b", "json")}
    results = training.measure(training.CASES["mlp"].small(), rivals, 1, 2, 1.0, at_once=True)

    assert {who: result["ours_to_theirs"] for who, result in results.items()} == {training.OURS: 1.0, "other": 1.0}


@pytest.mark.parametrize("has_digits", [True, False])
def test_images_of_every_case_have_its_shape_with_and_without_the_digits(scripts, monkeypatch, has_digits):
    if not has_digits:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    cases = scripts("_cases").CASES
    found = {name: case.small().data(1) for name, case in cases.items()}

    shapes = {"mlp": (32, 64), "cnn": (64, 28, 28, 1), "cnn-1024": (64, 28, 28, 1), "resnet": (2, 32, 32, 3)}
    assert {name: images.shape for name, (images, _) in found.items()} == shapes
    assert {(images.dtype.name, target.dtype.name) for images, target in found.values()} == {("uint8", "int32")}
