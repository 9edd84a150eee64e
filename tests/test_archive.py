"""Runs on disk: what is told of them, and that reading them, however they were made, runs nothing."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import re
import subprocess
import sys
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from experimentator.checkpoint import CheckpointError, load_weights
from experimentator.cli import main
from experimentator.commands.listing import Filter, list_runs
from experimentator.commands.usage import UsageError
from experimentator.records.archive import find_runs, read_run

ROOT = Path(__file__).resolve().parent.parent


def made(place, *rows, status="finished", started="2026-01-01T00:00:00+00:00", overrides=None, config=None, **more):
    """A run folder with this history."""
    place.mkdir(parents=True)
    told = {"status": status, "error": None, "epoch": len(rows), **more}
    (place / "status.json").write_text(json.dumps(told))
    environment = {"started": started, "overrides": overrides or {}}
    (place / "environment.json").write_text(json.dumps(environment))
    (place / "config.json").write_text(json.dumps(config or {}))
    lines = [json.dumps({"epoch": number, **row}) for number, row in enumerate(rows, start=1)]
    (place / "history.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return place


@pytest.fixture
def runs(tmp_path):
    """Three runs of one project, and one of another."""
    good, bad = (
        {"validation_loss": 0.5, "validation_accuracy": 0.8},
        {"validation_loss": 0.9, "validation_accuracy": 0.7},
    )
    made(tmp_path / "digits" / "a", bad, good, bad, started="2026-01-01", overrides={"rate": 0.1}, config={"size": 8})
    made(tmp_path / "digits" / "b", bad, started="2026-01-03", overrides={"rate": 0.01}, config={"size": 16})
    made(tmp_path / "digits" / "c", started="2026-01-02", status="failed", error="ValueError: no", config={"size": 8})
    made(tmp_path / "pairs" / "d", {"training_loss": 2.0}, started="2026-01-04")
    (tmp_path / "digits" / "latest").symlink_to("b")
    return tmp_path


def listed(folder, *filters, sort=None, descending=False, as_json=False):
    output, errors = io.StringIO(), io.StringIO()
    arguments = Namespace(
        output=None, folder=str(folder), filters=filters, sort=sort, descending=descending, json=as_json, open=False
    )
    with redirect_stdout(output), redirect_stderr(errors):
        status = list_runs(arguments)
    return status, output.getvalue(), errors.getvalue()


def names(*arguments, **options):
    return [Path(run["run"]).name for run in json.loads(listed(*arguments, **options, as_json=True)[1])]


# What is told


def test_a_whole_number_of_any_size_is_listed(tmp_path):
    made(tmp_path / "a", {"validation_loss": 10**400})

    status, shown, _ = listed(tmp_path)

    assert status == 0
    assert "validation_loss 1000" in shown


def test_runs_are_found_once_each_oldest_first(runs):
    assert [run.name for run in find_runs(runs)] == ["digits/a", "digits/c", "digits/b", "pairs/d"]
    assert [run.name for run in find_runs(runs / "digits" / "latest")] == ["digits/b"]


def test_the_best_epoch_is_that_of_the_smallest_validation_loss_or_the_one_that_was_kept(runs):
    assert (read_run(runs / "digits" / "a").measure, read_run(runs / "digits" / "a").best["epoch"]) == (
        "validation_loss",
        2,
    )
    (runs / "digits" / "a" / "best.json").write_text('{"metric": "validation_accuracy", "epoch": 3, "value": 0.7}')
    kept = read_run(runs / "digits" / "a")
    assert (kept.measure, kept.best["validation_accuracy"]) == ("validation_accuracy", 0.7)


def test_the_best_epoch_is_told_where_the_process_died_before_its_line_was_written(runs):
    (runs / "digits" / "a" / "best.json").write_text('{"metric": "validation_accuracy", "epoch": 4, "value": 0.9}')

    assert read_run(runs / "digits" / "a").best == {"epoch": 4, "validation_accuracy": 0.9}


def test_a_folder_that_nobody_may_look_into_hides_no_runs(runs, monkeypatch):
    (runs / "lost+found").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    expected = [run.name for run in find_runs(runs)]
    monkeypatch.setattr(os, "scandir", refuse)
    found = find_runs(runs)

    assert [run.name for run in found if run.status != "damaged"] == expected
    assert ["Permission denied" in run.problem for run in found if run.status == "damaged"] == [True]
    with pytest.raises(CheckpointError, match="Permission denied"):
        find_runs(runs / "lost+found")


def test_a_run_without_a_number_for_its_loss_still_tells_its_last_epoch(tmp_path):
    run = read_run(
        made(tmp_path / "a", {"validation_loss": None}, {"validation_loss": None, "validation_accuracy": 0.5})
    )

    assert (run.epochs, run.measure, run.best["validation_accuracy"]) == (2, "", 0.5)


def test_a_process_that_is_gone_makes_its_run_lost(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    here = platform.node()
    cases = [(gone.pid, here), (os.getpid(), here), (gone.pid, "elsewhere"), (-1, here), ("1", here), (None, None)]
    for place, (process, host) in enumerate(cases):
        made(tmp_path / str(place), status="running", process=process, host=host)

    statuses = [read_run(tmp_path / str(place)).status for place in range(len(cases))]
    assert statuses == ["lost", "running", "running", "running", "running", "running"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_process_that_ended_and_that_nobody_waits_for_is_gone_too(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # its number stays until it is waited for
        made(tmp_path / "a", status="running", process=ended.pid, host=platform.node())

        assert read_run(tmp_path / "a").status == "lost"


def test_the_table_shows_what_matters(runs):
    status, output, errors = listed(runs / "digits", sort="size")

    assert (status, errors) == (0, "")
    assert [line.split() for line in output.splitlines()] == [
        ["run", "status", "epochs", "best", "started", "size", "overrides"],
        ["digits/a", "finished", "3", "validation_loss", "0.5", "in", "epoch", "2", "2026-01-01", "8", "rate=0.1"],
        ["digits/c", "failed", "0", "2026-01-02", "8"],
        ["digits/b", "finished", "1", "validation_loss", "0.9", "in", "epoch", "1", "2026-01-03", "16", "rate=0.01"],
    ]


def test_json_has_everything_and_no_nan(tmp_path):
    made(tmp_path / "a", {"validation_loss": 0.5, "validation_recall": None}, overrides={"rate": 0.1})

    (run,) = json.loads(listed(tmp_path, as_json=True)[1], parse_constant=pytest.fail)
    assert run["best"] == {"measure": "validation_loss", "epoch": 1, "validation_loss": 0.5, "validation_recall": None}
    assert (run["status"], run["overrides"]) == ("finished", {"rate": 0.1})


# Filters and order


@pytest.mark.parametrize(
    "filters, found",
    [
        (["status=finished"], ["a", "b", "d"]),
        (["status!=finished"], ["c"]),
        (["project=digits", "epochs>=1"], ["a", "b"]),
        (["validation_loss<0.6"], ["a"]),
        (["rate = 1e-2"], ["b"]),
        (["size=8"], ["a", "c"]),
        (["size!=8"], ["b"]),
        (["started>2026-01-02"], ["b", "d"]),
        (["size=x"], []),
    ],
    ids=str,
)
def test_filters_compare_numbers_and_texts(filters, found, runs):
    assert names(runs, *filters) == found


def test_a_number_that_was_set_is_meant_and_not_a_measure_of_its_name(tmp_path):
    measured = {"validation_loss": 0.5, "rate": 1e-6, "knn": 0.9}
    made(tmp_path / "digits" / "a", measured, config={"rate": 0.1, "knn": "<function knn>"})
    made(tmp_path / "digits" / "b", measured, config={"rate": 0.2}, overrides={"rate": 0.01})

    assert names(tmp_path, "rate=0.1") == ["a"]
    assert names(tmp_path, "rate=0.01", "knn>0.8") == ["b"]
    assert names(tmp_path, "knn>0.8") == ["a", "b"]


@pytest.mark.parametrize(
    "text, write",
    [
        (
            "validation_loss<0,2",
            "'0,2' is no number\nSeen: .*Write a point: validation_loss<0.2; for a list, write [0, 2]",
        ),
        ("rate=0,1", "Write a point: rate=0.1;"),
        ("size>x", "'size' is a number, which x is not, so > cannot compare them\nSeen: 8. Write a number, or "),
        ("started>2026", "'started' is a text, .*\nSeen: 2026-01-01. Write started>'2026' to compare texts, or "),
    ],
)
def test_a_filter_that_could_match_nothing_is_refused(text, write, runs):
    with pytest.raises(UsageError, match=re.escape(write).replace(r"\.\*", ".*")):
        listed(runs, text)


def test_runs_without_the_value_come_last_whichever_way_they_are_sorted(runs):
    assert names(runs, sort="validation_accuracy") == ["b", "a", "c", "d"]
    assert names(runs, sort="validation_accuracy", descending=True) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("text", ["validation_loss", "", "=3", "a b=3"])
def test_a_filter_without_a_comparison_is_refused(text):
    with pytest.raises(UsageError, match=r"is no filter\nSeen: no comparison. Write NAME=VALUE"):
        Filter.of(text)


def test_a_name_that_no_run_has_is_refused_with_near_matches(runs):
    with pytest.raises(UsageError, match=r"has a 'validation_los'\nDid you mean validation_loss"):
        listed(runs, "validation_los<1")


def test_nothing_found_says_so(runs, tmp_path):
    assert listed(runs, "epochs>99") == (0, "", f"No run in {runs} matches the filters.\n")
    with pytest.raises(CheckpointError, match="There is no folder"):
        listed(tmp_path / "nowhere")


# Files that somebody made


def deep(path):
    path.write_text('{"a": ' * 100_000 + "1" + "}" * 100_000 + "\n{}\n")


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def folder(path):
    path.unlink()
    path.mkdir()


def endless(path):
    os.truncate(path, 1 << 40)  # it takes no room on the disk


DAMAGE = {
    "deep": deep,
    "pipe": pipe,
    "link": link,
    "folder": folder,
    "endless": endless,
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "nan": lambda path: path.write_text('{"epoch": NaN}\n{"epoch": 2}\n'),
    "huge": lambda path: path.write_text('{"epoch": 1e999}\n{"epoch": 2}\n'),
    "digits": lambda path: path.write_text('{"epoch": ' + "9" * 10_000 + "}\n{}\n"),
    "list": lambda path: path.write_text("[1]\n[2]\n"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00\n\xff\n"),
    "pickle": lambda path: path.write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.\n{}\n"),
}
FILES = ("status.json", "environment.json", "config.json", "best.json", "history.jsonl")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_what_a_run_leaves_is_refused_by_name_and_the_others_are_listed(name, damage, tmp_path):
    made(tmp_path / "good", {"validation_loss": 0.5})
    bad = made(tmp_path / "bad", {"validation_loss": 0.5}, {"validation_loss": 0.4})
    (bad / "best.json").write_text("{}")
    DAMAGE[damage](bad / name)

    status, output, errors = listed(tmp_path)
    assert status == 5
    assert str(bad / name) in errors
    assert "damaged" in output
    assert "good  finished" in output


@pytest.mark.parametrize(
    "told",
    [
        {"status": 7, "error": ["x"]},
        {"status": "running", "process": 1 << 70, "host": platform.node()},
        {"started": 3, "overrides": [1]},
        {"metric": ["x"], "epoch": {}, "value": "1"},
        {"epoch": "x", "validation_loss": "small", "training_loss": {"a": 1}, "": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FILES)
def test_values_of_any_kind_are_listed_or_left_out(name, told, tmp_path):
    run = made(tmp_path / "a", {"validation_loss": 0.5})
    (run / name).write_text(json.dumps(told) + "\n")

    assert listed(tmp_path)[0] == listed(tmp_path, as_json=True)[0] == 0


def test_names_and_values_command_no_terminal(tmp_path):
    evil = "x\x1b]0;owned\x07\u202e\n\r\x9b31m"
    run = made(tmp_path / "a\x1b[31m", {f"{evil}_loss": 0.5}, overrides={evil: evil}, started=evil, status=evil)
    (run / "config.json").write_text("[]")
    made(tmp_path / "b", {f"{evil}_loss": 0.5}, overrides={evil: evil}, started=evil, status=evil)

    _, output, errors = listed(tmp_path, sort=evil)
    assert all(c.isprintable() or c == "\n" for c in output + errors)
    assert len(output.splitlines()) == 3


OBSERVED = """
import sys
from argparse import Namespace
from pathlib import Path
from experimentator.commands import listing, results
from experimentator.records import archive, plainfile
import encodings.idna, unicodedata

place, events = Path(sys.argv[1]), []
def observe(event, arguments):
    if event == "open" and not isinstance(arguments[0], int) and not str(arguments[0]).startswith(str(place)):
        events.append((event, arguments[0]))
    if event == "import" and arguments[0] not in sys.modules or event in ("exec", "compile"):
        events.append((event, arguments[0]))
    if event.startswith(("pickle.", "marshal.", "os.system", "os.exec", "os.spawn", "subprocess.", "socket.")):
        events.append((event, arguments))
sys.addaudithook(observe)
listing.list_runs(Namespace(folder=str(place), filters=[], sort="epochs", descending=True, json=False, output=None,
    open=False))
listed = list(events)
exec("1")
print(listed, len(events))
"""


def test_listing_runs_executes_nothing_and_opens_nothing_else(tmp_path):
    for number, (name, damage) in enumerate((n, d) for n in FILES for d in DAMAGE):
        run = made(tmp_path / "runs" / str(number), {"validation_loss": 0.5}, {"validation_loss": 0.4})
        (run / "config.py").write_text("open('canary', 'w')")
        (run / "best.json").write_text("{}")
        DAMAGE[damage](run / name)
    made(tmp_path / "runs" / "good", {"validation_loss": 0.5})

    command = [sys.executable, "-c", OBSERVED, str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)

    assert done.stdout.splitlines()[-1] == "[] 2", done.stdout + done.stderr  # the 2 are the control's own
    assert "runs/good  finished" in done.stdout
    assert not (tmp_path / "canary").exists()


# Weights


def header(text, data=b""):
    raw = text.encode()
    return len(raw).to_bytes(8, "little") + raw + data


TENSOR = '"dtype": "F32", "shape": [{}], "data_offsets": [0, {}]'
WEIGHTS = {
    "giant header": (1 << 62).to_bytes(8, "little") + b"{}",
    "header past the end": (1 << 20).to_bytes(8, "little") + b"{}",
    "deep": header('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "nan": header('{"a": {' + TENSOR.format("NaN", 4) + "}}", b"\0" * 4),
    "1e999": header('{"a": {' + TENSOR.format("1e999", 4) + "}}", b"\0" * 4),
    "overflow": header(
        '{"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 2], "data_offsets": [0, 4]}}', b"\0" * 4
    ),
    "past the end": header('{"a": {' + TENSOR.format(1000, 4000) + "}}", b"\0" * 4),
    "overlap": header(
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {' + TENSOR.format(1, 4) + "}}", b"\0" * 4
    ),
    "hole": header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', b"\0" * 8),
    "negative": header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', b"\0" * 4),
    "unknown kind": header('{"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}', b"\0" * 4),
    "pickle": b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.",
    "zip": b"PK\x03\x04" + b"\0" * 60,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none_are_refused_by_name(name, tmp_path):
    (tmp_path / "w").write_bytes(WEIGHTS[name])

    with pytest.raises(CheckpointError, match=r"'.*w' cannot be read as weights.\nSeen: .+.\nIt is damaged"):
        load_weights(tmp_path / "w")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
def test_a_pipe_or_a_device_in_place_of_weights_is_refused_at_once(make, tmp_path):
    make(tmp_path / "w")

    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_weights(tmp_path / "w")


def test_nan_in_a_history_reads_as_nan(tmp_path):
    run = made(tmp_path / "a", {"validation_loss": 0.5}, {"validation_loss": None})

    assert math.isnan(read_run(run).best["validation_loss"]) is False
    assert read_run(run).epochs == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", ["status.json", "pipeline.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_graph_of_a_run_made_of_such_files_is_refused_by_name(name, damage, tmp_path, capsys):
    run = made(tmp_path / "a", {"validation_loss": 0.5})
    (run / "pipeline.json").write_text("{}")
    DAMAGE[damage](run / name)

    assert main(["graph", str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err
    assert "Traceback" not in err
