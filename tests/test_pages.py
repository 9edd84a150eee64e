"""What readers see is what the library does: the tour runs, and README's pictures are those of today."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery
def test_the_tour_runs_from_top_to_bottom_and_draws(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tour = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    NotebookClient(tour, timeout=300, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()

    shown = [output.get("data", {}) for cell in tour.cells for output in cell.get("outputs", ())]
    assert sum("image/svg+xml" in data for data in shown) == 4
    assert any("<table>" in data.get("text/html", "") for data in shown)


def test_the_pictures_of_the_readme_are_those_that_the_examples_give(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "docs" / "draw.py"), str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)

    drawn = {path.name: texts(path) for path in tmp_path.iterdir()}
    assert drawn == {path.name: texts(path) for path in (ROOT / "docs").glob("*.svg")}
    assert set(re.findall(r"docs/(\w+\.svg)\)", (ROOT / "README.md").read_text("utf-8"))) == set(drawn)


def texts(path):
    """The words of a picture: where they stand may differ with the fonts of a machine."""
    return sorted(re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text("utf-8")))
