"""Sweeps: which points there are, how each ended whatever ended it, and what a sweep that was ended goes on with."""

import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experimentator import build_experiment
from experimentator.callbacks.picture import MARK
from experimentator.checkpoint import CheckpointError
from experimentator.cli import main
from experimentator.commands.means import means_of, show_means
from experimentator.commands.sweep import Display
from experimentator.config import ConfigError
from experimentator.graph.palette import COLORS
from experimentator.records.history import read_history
from experimentator.sweep import supervisor
from experimentator.sweep.heartbeat import ERROR, tell_error
from experimentator.sweep.outcome import Outcome
from experimentator.sweep.picture import picture
from experimentator.sweep.points import Between, axes_of, constant_in, key_of, points
from experimentator.sweep.register import REGISTER, Register, _line
from experimentator.sweep.supervisor import SHARING, Point, devices

ROOT = Path(__file__).resolve().parent.parent
CONFIG = str(ROOT / "tests" / "configs" / "light.py")
LIGHT = Path(CONFIG).read_text("utf-8")
MOMENTUM = (ROOT / "tests" / "configs" / "momentum.py").read_text("utf-8")  # which has state to resume
COMMAND = [sys.executable, "-m", "experimentator", "pains.py"]
# What befalls a training in its second epoch, and a witness outside of the library of every epoch trained.
PAINS = """
import os, signal, time

pain = ""

class Pain:
    def state_dict(self):
        return {}

    def on_epoch_end(self, epoch, **_):
        with open("witness", "a") as file:
            file.write(f"{rate} {pain} {epoch}\\n")
        if epoch == 2:
            globals().get(f"do_{pain}", lambda: None)()

def do_error():
    raise ZeroDivisionError("in the second epoch")

def do_kill():
    os.kill(os.getpid(), signal.SIGKILL)

def do_stop():
    os.kill(os.getpid(), signal.SIGSTOP)

def do_spin():
    while True:
        time.sleep(0.01)

def do_exit():
    os._exit(7)

def do_quiet():
    os.path.exists("mended") or os._exit(0)

def do_late():
    time.sleep(3)
    raise ZeroDivisionError("after all")

def do_still():
    time.sleep(3)
    os._exit(0)

def do_memory():
    group = os.environ["GROUP"]
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    kept = [os.urandom(1 << 20) for _ in range(1000)]

def do_slow():
    time.sleep(1)

callbacks.append(Pain())
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    Path("pains.py").write_text(LIGHT + PAINS, "utf-8")


@pytest.fixture
def group(monkeypatch):
    """A control group in which 80 MB are all there is."""
    place = Path("/sys/fs/cgroup/memory", f"experimentator-{os.getpid()}")
    try:
        place.mkdir()
        (place / "memory.limit_in_bytes").write_text("80M")
    except OSError:
        pytest.skip("needs root and control groups for memory (version 1)")
    monkeypatch.setenv("GROUP", str(place))
    yield place
    place.rmdir()


def sweep(*words, epochs="3"):
    return main(["pains.py", "--quiet", "--epochs", epochs, "--experiment-id", "s", *words])


def until(found, seconds=60.0):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def rows(event=None):
    path = Path("runs", "pains", "s", REGISTER)
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may cut the last
    return [row for row in whole if event in (None, row["event"])]


def plainly(history):
    return [{name: value for name, value in row.items() if name != "epoch_time"} for row in history]


def endings():
    return {row["point"]: row["ended"] for row in rows("ended")}


def trained():
    """Epochs that the witness saw trained, by point."""
    lines = Path("witness").read_text("utf-8").splitlines()
    return Counter(line.rpartition(" ")[0] for line in lines)


# How points end


def test_want_of_memory_is_told_from_other_kills(group):
    assert sweep("--grid", "pain=['memory', 'kill']") == 137
    assert endings() == {1: "out of memory", 2: "killed (SIGKILL)"}


def test_an_exit_status_of_0_in_the_midst_of_a_training_is_not_its_end(capsys):
    text = "\nif pain == 'none' and not os.path.exists('mended'):\n    raise SystemExit(0)\n"
    Path("pains.py").write_text(LIGHT + PAINS + text, "utf-8")
    words = ["--grid", "pain=['', 'quiet', 'none']", "--resume", "auto"]

    assert sweep(*words, epochs="2") == 1
    assert endings() == {1: "finished", 2: "unfinished", 3: "unfinished"}
    assert "runs/pains/s-2 and 1 more: its process ended with exit status 0 before" in capsys.readouterr().err

    Path("mended").touch()
    assert sweep(*words, epochs="2") == 0
    assert endings() == {1: "finished", 2: "finished", 3: "finished"}


def test_what_ends_with_a_status_of_its_own_while_it_is_told_to_stop_tells_that():
    assert sweep("--grid", "pain=['still', 'late']", "--jobs", "2", "--hang-seconds", "2") == 1

    assert endings() == {1: "hung", 2: "error"}
    assert [row["error"] for row in rows("ended") if row["point"] == 2] == ["ZeroDivisionError: after all"]


def test_a_point_that_takes_its_time_to_start_is_not_taken_for_hung():
    Path("pains.py").write_text(f"import time\ntime.sleep(3)\n{LIGHT}{PAINS}", "utf-8")

    assert sweep("--grid", "rate=[0.1]", "--hang-seconds", "2", epochs="1") == 0


def test_a_point_that_never_starts_is_hung(monkeypatch):
    monkeypatch.setattr(supervisor, "START_SECONDS", 2)
    Path("pains.py").write_text(f"import time\ntime.sleep(100)\n{LIGHT}{PAINS}", "utf-8")

    assert sweep("--grid", "rate=[0.1]", "--hang-seconds", "0.5", epochs="1") == 143
    assert endings() == {1: "hung"}
    assert rows("ended")[0]["seconds"] > 2


def test_each_way_to_end_is_told_by_what_the_system_says_and_other_points_are_those_of_one_after_the_other(capsys):
    rates = [round(0.01 * place, 2) for place in range(1, 41)]
    good = {rate: build_experiment("pains.py", rate=rate, hide_progress=True) for rate in rates}
    for exp in good.values():
        exp.train(3)
    Path("witness").unlink()
    pains = ["error", "kill", "exit"] * 2 + ["error", "kill", "stop", "spin"]
    points = [*[(rate, "") for rate in rates], *[(round(1 + 0.01 * place, 2), one) for place, one in enumerate(pains)]]
    random.Random(1).shuffle(points)
    # One axis, whose values are the points: a product would have more.
    text = LIGHT.replace("rate = 0.1", "pair = (0.1, '')\nrate = pair[0]", 1)
    Path("pains.py").write_text(text + PAINS.replace('pain = ""', "pain = pair[1]"), "utf-8")

    assert sweep("--grid", f"pair={points}", "--jobs", "4", "--hang-seconds", "5") != 0

    out, err = capsys.readouterr()
    by_pair = {tuple(row["values"]["pair"]): row for row in rows("ended")}
    assert [row["point"] for row in sorted(rows("ended"), key=lambda row: row["point"])] == [*range(1, 51)]
    told = {"": "finished", "error": "error", "kill": "killed (SIGKILL)", "exit": "exit 7"}
    assert {pair: row["ended"] for pair, row in by_pair.items()} == {pair: told.get(pair[1], "hung") for pair in points}
    first = next(f"runs/pains/{by_pair[pair]['run']}" for pair in points if pair[1] == "error")
    assert [line.split()[-2] for line in out.splitlines() if line.split()[-1] == first] == ["1)"]
    assert f"{first} and 2 more: ZeroDivisionError: in the second epoch" in err
    for rate, exp in good.items():
        assert plainly(read_history(Path("runs", "pains", by_pair[rate, ""]["run"]))) == plainly(exp.history)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_a_configuration_says_in_refusing_a_point_is_kept(jobs, capsys):
    Path("pains.py").write_text(LIGHT + PAINS + "\nassert rate < 1, 'a rate below 1'\n", "utf-8")

    assert sweep("--grid", "rate=[2, 0.1]", "--jobs", jobs, epochs="1") == 2
    told = {row["point"]: row["error"] for row in rows("ended")}
    assert re.fullmatch(r"ConfigError: pains.py:\d+: AssertionError: a rate below 1", told[1])
    assert told[2] == ""
    assert f"point 1: {told[1]}" in capsys.readouterr().err


def test_points_side_by_side_are_told_in_lines(capsys):
    assert sweep("--grid", "rate=[0.5, 0.1]", "--grid", "pain=['', 'error']", "--jobs", "2") == 1

    _, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == "point 1/4  rate=0.5  pain=''"
    assert (
        sum(bool(re.fullmatch(r"point \d/4  finished after [\d.]+ s: validation_loss [\d.]+", x)) for x in lines) == 2
    )
    told = r"point \d/4  error after [\d.]+ s: ZeroDivisionError: in the second epoch"
    assert sum(bool(re.fullmatch(told, line)) for line in lines) == 2
    assert lines.count("  error: ZeroDivisionError: in the second epoch") == 1
    assert "runs/pains/s-2 and 1 more: ZeroDivisionError: in the second epoch" in lines


def test_lines_above_a_progress_bar_are_as_they_are_elsewhere(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    told = f"cosine:fire:{'x' * 200}"

    display = Display([{"schedule": told}], [1], jobs=2, epochs=1, is_quiet=True)
    with display:
        display.begins(Point(1, {}, []))

    assert f"point 1/1  schedule='{told}'" in screen.getvalue()


def test_points_that_share_a_device_leave_memory_to_each_other(monkeypatch):
    seen = "open(f'seen-{rate}', 'w').write(' '.join(os.environ.get(n, '-') for n in NAMES))"
    names = [*SHARING, "CUDA_VISIBLE_DEVICES"]
    Path("pains.py").write_text(f"{LIGHT}{PAINS}\nNAMES = {names}\n{seen}\n", "utf-8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")

    assert sweep("--grid", "rate=[0.1, 0.2, 0.3, 0.4]", "--jobs", "2", epochs="1") == 0
    told = [Path(f"seen-0.{place}").read_text("utf-8").split() for place in (1, 2, 3, 4)]
    assert all(words[:2] == ["true", "false"] for words in told)
    assert [words[2] for words in told[:2]] == ["2", "5"]
    assert {words[2] for words in told[2:]} <= {"2", "5"}


@pytest.mark.parametrize("own", [None, "of_the_user"])
def test_points_on_jax_share_what_they_compile_while_the_sweep_runs(own, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(supervisor, "ROOM", 0)
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", own)
    seen = "place = Path(os.environ['JAX_COMPILATION_CACHE_DIR']); place.mkdir(exist_ok=True)"
    seen += "\nprint(place, file=open('seen', 'a'))"
    Path("pains.py").write_text(f"{LIGHT}{PAINS}\nfrom pathlib import Path\n{seen}\n", "utf-8")

    assert sweep("--grid", "rate=[0.1, 0.2]", epochs="1") == 0
    (folder,) = set(Path("seen").read_text("utf-8").split())
    assert folder == (own or str(Path("runs/pains/s/compiled").absolute()))
    assert Path(folder).exists() == bool(own)


def test_what_points_on_jax_compile_does_not_fill_the_disk(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(supervisor, "ROOM", 1 << 60)
    seen = "print('JAX_COMPILATION_CACHE_DIR' in os.environ, file=open('seen', 'a'))"
    Path("pains.py").write_text(f"{LIGHT}{PAINS}\n{seen}\n", "utf-8")

    assert sweep("--grid", "rate=[0.1, 0.2]", epochs="1") == 0
    assert Path("seen").read_text("utf-8").split() == ["False", "False"]


def test_one_device_is_nobodys_in_particular(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    assert devices() == []


def test_points_one_after_the_other_have_all_devices(monkeypatch):
    Path("pains.py").write_text(f"{LIGHT}{PAINS}\nassert os.environ['CUDA_VISIBLE_DEVICES'] == '2,5'\n", "utf-8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")

    assert sweep("--grid", "rate=[0.1, 0.2]", epochs="1") == 0


def test_an_experiment_without_callbacks_tells_nothing_and_is_not_taken_for_hung(capsys):
    types = "[BaseExperiment, CallbackedExperiment, ByHandExperiment]"
    text = LIGHT.replace(types, "[BaseExperiment, ByHandExperiment]")
    slow = text.replace("    error = weight", "    time.sleep(1)\n    error = weight")
    Path("pains.py").write_text(f"import time\nmetrics = ['slope']\n{slow}", "utf-8")

    assert sweep("--grid", "rate=[0.1]", "--hang-seconds", "3", epochs="1") == 0
    assert rows("ended")[0]["seconds"] > 3
    assert sweep("--grid", "rate=[0.1]", "--resume", "auto", epochs="1") == 0
    assert capsys.readouterr().err.count("finished before") == 1


# Going on


def test_what_is_done_stays_and_what_failed_is_trained_again(capsys):
    assert sweep("--grid", "rate=[0.5, 0.1]", "--grid", "pain=['error', '']") == 1
    before = trained()
    Path("pains.py").touch()

    assert sweep("--grid", "pain=['', 'error']", "--grid", "rate=[0.1, 0.2]", "--resume", "auto") == 1
    err = capsys.readouterr().err
    assert "point 1/4  pain=''  rate=0.1  finished before" in err
    after = trained()
    assert (before["0.1 "], after["0.1 "], after["0.2 "]) == (3, 3, 3)
    assert after["0.1 error"] > before["0.1 error"]
    assert (after["0.5 "], after["0.5 error"]) == (before["0.5 "], before["0.5 error"])  # not asked for again
    assert {row["point"] for row in rows("begun")} == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize("change", ["more epochs", "another text", "no run"])
def test_what_is_asked_otherwise_is_not_taken_for_done(change, capsys):
    assert sweep("--grid", "rate=[0.5]", epochs="2") == 0
    if change == "another text":
        Path("pains.py").write_text(Path("pains.py").read_text("utf-8") + "\n# a word more\n", "utf-8")
    if change == "no run":
        subprocess.run(["rm", "-r", "runs/pains/s-1"], check=True)

    assert sweep("--grid", "rate=[0.5]", "--resume", "auto", epochs="3" if change == "more epochs" else "2") == 0
    assert "finished before" not in capsys.readouterr().err
    assert len(rows("ended")) == 2


def test_points_after_a_change_of_the_configuration_are_told_and_not_taken_for_the_others(capsys):
    text = Path("pains.py").read_text("utf-8")
    edits = "from pathlib import Path\nif rate == 0.2:\n    Path(__file__).write_text(Path('text').read_text())\n"
    Path("pains.py").write_text(f"{text}\n{edits}", "utf-8")
    Path("text").write_text(f"{text}\n{edits}# a word more\n", "utf-8")

    assert sweep("--grid", "rate=[0.1, 0.2, 0.3]", epochs="1") == 0
    told = capsys.readouterr().err
    assert told.count("pains.py was changed meanwhile: from here on, points are trained as it is now.") == 1
    assert told.index("changed meanwhile") > told.index("rate=0.2")
    assert sweep("--grid", "rate=[0.1, 0.2, 0.3]", "--resume", "auto", epochs="1") == 0
    assert capsys.readouterr().err.count("finished before") == 1


def test_an_error_that_names_a_file_in_no_known_encoding_is_reported(tmp_path):
    tell_error(str(tmp_path), ValueError("there is no caf\udce9.jpg"))

    assert (tmp_path / ERROR).read_text("utf-8") == "ValueError: there is no caf\\udce9.jpg"


def test_the_newest_sweep_is_the_one_that_goes_on(capsys):
    words = ["pains.py", "--quiet", "--epochs", "1", "--grid", "rate=[0.5]"]
    assert main([*words, "--resume", "auto"]) == 0
    assert main([*words, "--resume"]) == 0

    assert "finished before" in capsys.readouterr().err
    assert len([*Path("runs", "pains").glob(f"*/{REGISTER}")]) == 1


def test_a_sweep_is_not_begun_over_another(capsys):
    assert sweep("--grid", "rate=[0.5]", epochs="1") == 0

    assert sweep("--grid", "rate=[0.5]", epochs="1") == 5
    assert "There is already a sweep 's'" in capsys.readouterr().err
    assert len(rows()) == 2


def test_a_killed_sweep_goes_on_where_it_was_and_trains_nothing_twice():
    """SIGKILL for the sweep at five random moments; its points end with it, saved, and no finished one runs again."""
    rates = [round(0.005 * place, 3) for place in range(1, 9)]
    exact = MOMENTUM.replace("- 0.01 * (np.mean", "- rate * (np.mean")
    Path("pains.py").write_text(f"rate = 0.01\n{exact}{PAINS}", "utf-8")
    words = ["--quiet", "--epochs", "3", "--experiment-id", "s", "--resume", "auto", "--jobs", "3"]
    words += ["--grid", f"rate={rates}", "--set", "pain=slow", "--checkpoint-seconds", "0.000001"]
    draws, kills, finished = random.Random(), 0, {}
    while kills < 5:
        child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3 + 1.2 * draws.random())
        assert child.poll() is None
        child.kill()
        assert child.wait() == -signal.SIGKILL
        kills += 1
        seen = trained() if Path("witness").exists() else Counter()
        for row in rows("ended"):
            finished.setdefault(row["values"]["rate"], seen[f"{row['values']['rate']} slow"])

    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert [row["point"] for row in rows("ended")] == [*dict.fromkeys(row["point"] for row in rows("ended"))]
    assert endings() == dict.fromkeys(range(1, 9), "finished")
    after = trained()
    assert {rate: after[f"{rate} slow"] for rate in finished} == finished
    for number, rate in enumerate(rates, start=1):
        alone = build_experiment("pains.py", rate=rate, pain="", hide_progress=True)
        alone.train(3)
        assert plainly(read_history(f"runs/pains/s-{number}")) == plainly(alone.history)


def test_a_point_whose_sweep_was_killed_before_it_began_leaves_no_reports(tmp_path):
    place = tmp_path / "reports"
    place.mkdir()
    point = [*COMMAND[:3], "run", "pains.py", "--report", place, "--parent", "0"]

    assert subprocess.run(point, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 143
    assert not place.exists()


def test_two_sweeps_in_one_folder_are_one_too_many(capsys):
    words = ["--quiet", "--epochs", "3", "--experiment-id", "s", "--grid", "pain=['spin']"]
    first = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: Path("witness").exists() and "spin 2" in Path("witness").read_text("utf-8"))
        assert sweep("--grid", "pain=['']", "--resume", "auto", epochs="1") == 5
        assert "A sweep is under way in runs/pains/s" in capsys.readouterr().err
    finally:
        first.send_signal(signal.SIGINT)
        time.sleep(1)
        first.send_signal(signal.SIGINT)  # who asks twice does not wait for what never ends
        first.wait(timeout=60)
    assert Path("witness").read_text("utf-8") == "0.1 spin 1\n0.1 spin 2\n"


def test_a_run_that_is_there_is_not_taken_for_a_point(capsys):
    assert main(["pains.py", "--quiet", "--epochs", "1", "--experiment-id", "s-1"]) == 0
    before = Path("runs/pains/s-1/history.jsonl").read_bytes()

    assert sweep("--grid", "rate=[0.2]", epochs="3") == 5
    assert endings() == {1: "file error"}
    assert Path("runs/pains/s-1/history.jsonl").read_bytes() == before


def test_the_folder_of_a_run_is_not_taken_for_that_of_a_sweep(capsys):
    assert main(["pains.py", "--quiet", "--epochs", "1", "--experiment-id", "s"]) == 0

    assert sweep("--grid", "rate=[0.2]", "--resume", "auto") == 5
    assert "There is already a run 's'" in capsys.readouterr().err
    assert not Path("runs", "pains", "s", REGISTER).exists()


def test_a_run_that_goes_on_is_no_point_of_a_sweep_unless_it_is_named(capsys):
    assert sweep("--grid", "rate=[0.2]", epochs="1") == 0
    plain = ["pains.py", "--quiet", "--epochs"]

    assert main([*plain, "1", "--resume"]) == 5
    assert "points of a --grid aside" in capsys.readouterr().err
    assert main([*plain, "2", "--resume", "auto"]) == 0
    assert sweep("--grid", "rate=[0.2, 0.3]", "--resume", "auto", epochs="1") == 0
    assert Path("runs/pains/latest").resolve().name == "s-2"
    assert main([*plain, "3", "--resume"]) == 0
    assert main([*plain, "3", "--set", "rate=0.2", "--resume", "runs/pains/s-1"]) == 0

    assert trained() == {"0.1 ": 3, "0.2 ": 3, "0.3 ": 1}
    assert [len(read_history(f"runs/pains/{name}")) for name in ("s-1", "s-2")] == [3, 1]


def test_sweeps_begun_in_the_same_second_have_folders_of_their_own():
    words = ["--quiet", "--epochs", "1", "--grid", "rate=[0.3, 0.4]"]
    children = [subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL) for _ in range(3)]

    assert [child.wait(timeout=120) for child in children] == [0, 0, 0]
    assert len([*Path("runs/pains").glob(f"*/{REGISTER}")]) == 3
    assert len([*Path("runs/pains").glob("*/history.jsonl")]) == 6 + 1  # and `latest`


def test_who_presses_ctrl_c_twice_is_told_how_points_ended():
    Path("pains.py").write_text((LIGHT + PAINS).replace("do_{pain}", "do_{pain.strip()}"), "utf-8")
    words = ["--quiet", "--epochs", "3", "--experiment-id", "s", "--grid", "pain=['spin', 'spin ']", "--jobs", "2"]
    child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: Path("witness").exists() and Path("witness").read_text("utf-8").count(" 2\n") == 2)
    child.send_signal(signal.SIGINT)
    time.sleep(1)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=8)

    assert child.returncode == 130
    assert out.count("killed (SIGKILL)") == 2
    assert endings() == {1: "killed (SIGKILL)", 2: "killed (SIGKILL)"}


def test_ctrl_c_tells_how_to_go_on():
    words = ["--quiet", "--epochs", "1000000", "--experiment-id", "s", "--grid", "rate=[0.1, 0.2, 0.3]", "--jobs", "2"]
    child = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len({*Path("witness").read_text("utf-8").split()[::2]}) == 2 if Path("witness").exists() else False)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)

    assert child.returncode == 130
    assert err.splitlines()[-2:] == [
        "Interrupted.",
        "Give the command again with --experiment-id s --resume auto to go on with the sweep.",
    ]
    assert out.count("interrupted (exit 130)") == 2
    assert endings() == {1: "interrupted", 2: "interrupted"}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_sweep_goes_on_where_nobody_reads_what_it_says_any_more(jobs):
    """As once its terminal was closed, or the `tee` behind it has ended."""
    read, write = os.pipe()
    os.close(read)
    words = ["--epochs", "2", "--experiment-id", "s", "--grid", "rate=[0.1, 0.2, 0.3]", "--jobs", jobs]
    subprocess.run([*COMMAND, *words], stdout=write, stderr=write, timeout=120, check=False)
    os.close(write)

    assert endings() == {1: "finished", 2: "finished", 3: "finished"}
    assert Path("runs", "pains", "s", "sweep.svg").exists()


# The register


def filled(folder):
    register = Register(folder)
    for rate in (0.1, 0.2):
        values = {"rate": rate}
        number = register.number(values)
        register.begin(number, values, values)
        last = {"validation_loss": rate, "noise": math.nan}
        register.end(Outcome(number, values, 0, seconds=1.5, last=last), values, "asked")
    register.close()
    return folder / REGISTER


def test_a_line_cut_short_anywhere_is_cut_away_and_no_other(tmp_path):
    whole = filled(tmp_path / "one").read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    place = tmp_path / "two"
    place.mkdir()
    for size in range(last, len(whole)):
        (place / REGISTER).write_bytes(whole[:size])
        register = Register(place)
        register.close()

        assert (place / REGISTER).read_bytes() == whole[:last]
        assert register.done(1, {"rate": 0.1}, "asked") == Outcome(
            1, {"rate": 0.1}, 0, seconds=1.5, last={"validation_loss": 0.1, "noise": None}
        )
        assert register.done(2, {"rate": 0.2}, "asked") is None
        assert register.number({"rate": 0.2}) == 2


@pytest.mark.parametrize("status", [1, 4, 130, 143, -9])
def test_what_ended_otherwise_is_not_done(tmp_path, status):
    register = Register(tmp_path)
    values = {"rate": 0.1}
    register.end(Outcome(register.number(values), values, status), values, "asked")

    assert register.done(1, values, "asked") is None


@pytest.mark.parametrize("done", [True, False])
def test_what_finished_without_a_run_folder_is_done_where_its_process_said_so(tmp_path, done):
    path = filled(tmp_path)
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    kept = [{name: value for name, value in row.items() if name not in ("done", "crc32")} for row in rows]
    path.write_text("".join(_line(row | ({"done": done} if row["event"] == "ended" else {})) for row in kept), "utf-8")

    assert (Register(tmp_path).done(1, {"rate": 0.1}, "asked") is not None) == done


def test_a_changed_byte_is_noticed(tmp_path):
    path = filled(tmp_path / "one")
    whole = path.read_bytes()
    for place in range(whole.rindex(b"\n", 0, -1)):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)

        with pytest.raises(CheckpointError, match=r"sweep.jsonl is damaged in line \d\."):
            Register(path.parent)


def test_a_line_that_somebody_signed_is_still_looked_at(tmp_path):
    path = filled(tmp_path / "one")
    path.write_text(_line({"event": "ended", "point": "1", "key": "{}"}) + path.read_text("utf-8"), "utf-8")

    with pytest.raises(CheckpointError, match="its 'point' is '1'"):
        Register(path.parent)


def test_no_line_leads_out_of_the_folder():
    assert sweep("--grid", "rate=[0.5]", epochs="1") == 0
    begun, ended = rows()
    for run in ("../s-1", "/etc", "..", "s-2/../s-1"):
        told = begun, ended | {"run": run}
        signed = [{name: value for name, value in row.items() if name != "crc32"} for row in told]
        Path("runs", "pains", "s", REGISTER).write_text("".join(map(_line, signed)), "utf-8")

        register = Register(Path("runs", "pains", "s"), "pains.py")
        register.close()
        assert register.number({"rate": 0.5}) == 1
        assert register.done(1, {"rate": 0.5}, ended["asked"]) is None, run


def test_a_module_beside_the_configuration_that_changed_is_told_by_its_training():
    Path("helper.py").write_text("factor = 1\n", "utf-8")
    Path("pains.py").write_text("import helper\n" + LIGHT + PAINS, "utf-8")
    command = [*COMMAND, "--quiet", "--epochs", "1", "--experiment-id", "s", "--grid", "rate=[0.5]"]
    subprocess.run(command, check=True, capture_output=True)
    Path("helper.py").write_text("factor = 2\n", "utf-8")

    again = subprocess.run([*command, "--resume", "auto"], check=False, capture_output=True, text=True)

    assert again.returncode == 2
    assert "helper.py" in again.stderr


# Points


@given(st.floats(1e-6, 1e3), st.floats(1.5, 1e6), st.booleans(), st.integers())
def test_a_draw_lies_within_its_range(low, factor, is_log, seed):
    axis = Between(low, low * factor, is_log)

    assert axis.low <= axis.draw(random.Random(seed)) <= axis.high


@pytest.mark.parametrize("text, counts", [("uniform(1, 4)", (250, 250, 250, 250)), ("loguniform(1, 4)", None)])
def test_whole_ends_give_whole_numbers_and_both_ends(text, counts):
    axis, source = Between.of(text), random.Random(0)
    drawn = Counter(axis.draw(source) for _ in range(1000))

    assert sorted(drawn) == [1, 2, 3, 4]
    if counts:
        assert all(abs(drawn[n] - 250) < 60 for n in drawn)
    else:
        assert drawn[1] > drawn[2] > drawn[3] > drawn[4]


def test_orders_of_magnitude_are_drawn_equally_often():
    axis, source = Between.of("loguniform(1e-4, 0.1)"), random.Random(0)
    orders = Counter(math.floor(math.log10(axis.draw(source))) for _ in range(3000))

    assert all(abs(orders[order] - 1000) < 120 for order in (-4, -3, -2))


@given(st.integers(1, 20), st.integers(1, 20))
def test_a_larger_sample_goes_on_with_the_points_of_a_smaller_one(first, second):
    axes = axes_of(["learning_rate=loguniform(1e-4, 0.1)", "batch_size=[1, 2]"])
    smaller, larger = (points(axes, CONFIG, sample=count) for count in sorted([first, second]))

    assert larger[: len(smaller)] == smaller
    assert len({*map(key_of, larger)}) == max(first, second)


def test_a_value_written_twice_is_one_point():
    assert points(axes_of(["batch_size=[1, 2, 1]"]), CONFIG) == [{"batch_size": 1}, {"batch_size": 2}]


def test_a_sample_of_more_points_than_there_are_is_all_of_them():
    drawn = points(axes_of(["seed=[1, 2]", "batch_size=uniform(3, 4)"]), CONFIG, sample=50)

    assert sorted((point["seed"], point["batch_size"]) for point in drawn) == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_an_axis_is_shown_as_it_was_set_though_a_measure_has_its_name(capsys):
    falls = (
        "class Falls:\n    outputs = ['rate']\n    def on_epoch_end(self, state, **_):\n        state['rate'] = 1e-6\n"
    )
    Path("falls.py").write_text(f"{LIGHT}\n{falls}callbacks.append(Falls())\n", "utf-8")

    main(["run", "falls.py", "--epochs", "1", "--quiet", "--grid", "rate=[0.5,0.25]"])

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["0.5", "0.25"]


def test_a_sample_is_trained(capsys):
    assert sweep("--grid", "rate=loguniform(0.01, 0.5)", "--sample", "3", epochs="1") == 0

    rates = [row["values"]["rate"] for row in rows("ended")]
    assert len({*rates}) == 3
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [f"{rate:.4g}" for rate in rates]


@pytest.mark.parametrize(
    "words, told",
    [
        (["--grid", "rate=uniform(1, 0)"], "uniform(1, 0) is no range"),
        (["--grid", "rate=loguniform(0, 1)"], "Write two numbers above 0, the smaller one first."),
        (["--grid", "rate=uniform(0, 1)"], "Add --sample N, to draw N of them."),
        (["--grid", "rat=uniform(0, 1)", "--sample", "2"], "Did you mean 'rate'?"),
        (["--grid", "rate=uniform(0, 1)", "--grid", "rate=[1]"], "'rate' is given twice"),
        (["--grid", "rate=[0.1]", "--set", "rate=0.2"], "'rate' is both an axis and a single value"),
        (["--grid", "seed=[1]", "--seed", "2"], "'seed' is both an axis and a single value"),
        (["--grid", "experiment_id=['a', 'b']"], "'experiment_id' is no axis of a grid"),
        (["--grid", "epochs=[1, 2]"], "'epochs' is no axis of a grid"),
        (["--grid", "rate=[1]", "--set", "experiment_id=a"], "'experiment_id' is set for all points"),
        (["--grid", "rate=[0.1]", "--jobs", "0"], "no whole number of at least 1"),
        (["--grid", "rate=[0.1]", "--resume", "runs/pains/s"], "--grid begins many"),
        (["--jobs", "2"], "--jobs is for the points of a --grid"),
        (["--hang-seconds", "2"], "--hang-seconds is for the points of a --grid"),
        (["--sample", "2"], "--sample is for the points of a --grid"),
    ],
)
def test_what_no_sweep_can_be_is_refused_in_one_message(words, told, capsys):
    assert sweep(*words) == 2

    assert told in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_sweep_lies_where_the_configuration_puts_its_runs():
    text = LIGHT + PAINS + '\noutput_folder = "out"\nproject_name = "mine"\n'
    Path("pains.py").write_text(text, "utf-8")

    assert sweep("--grid", "rate=[0.5]", epochs="1") == 0
    assert {path.name for path in Path("out", "mine").iterdir()} == {"s", "s-1", "latest"}
    assert constant_in("pains.py", "project_name") == "mine"


def test_a_name_that_is_computed_is_no_constant():
    Path("task.py").write_text("project_name = 'a'\nproject_name = f'{1}'\n", "utf-8")

    assert constant_in("task.py", "project_name") is None


# What is shown


def test_points_that_differ_by_their_seed_alone_are_one_row_more(capsys):
    assert sweep("--grid", "rate=[0.5, 0.1]", "--grid", "seed=[1, 2, 3]", epochs="2") == 0

    out = capsys.readouterr().out
    head, *means = out.split("\n\n")[1].splitlines()
    assert head.split()[:4] == ["rate", "runs", "training_loss", "training_loss"]
    measured = [row["last"]["validation_loss"] for row in rows("ended") if row["values"]["rate"] == 0.5]
    own = means[0].split()
    assert own[:2] == ["0.5", "3"]
    assert float(own[head.replace(" ±", "±").split().index("validation_loss")]) == pytest.approx(
        np.mean(measured), rel=1e-3
    )
    assert float(own[head.replace(" ±", "±").split().index("validation_loss±")]) == pytest.approx(
        np.std(measured, ddof=1), rel=1e-3
    )
    assert head.endswith("p to best")
    assert [line.split()[-1] for line in means[:2]].count("best") == 1
    assert "best" not in out.split("\n\n")[0]  # of a single seed
    told = "p to best: the probability that validation_loss would differ so much"
    assert means[2].startswith(told)
    assert "with 3 it is never below 0.25" in means[2]


def test_means_of_what_is_not_finite_are_not_finite():
    outcomes = [Outcome(number, {"seed": number}, 0) for number in (1, 2)]

    (row,) = means_of(outcomes, [{"a": math.inf, "b": math.nan, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 3.0}])

    assert (row["runs"], row["a"], row["c"], row["c ±"]) == (2, math.inf, 2.0, pytest.approx(math.sqrt(2)))
    assert np.isnan([row["a ±"], row["b"], row["b ±"]]).all()


def test_rows_of_the_same_seeds_and_folds_are_tested_against_the_best_by_pairs():
    """As SciPy has it; a seed that one row alone has is no pair, and a row with one pair is not tested."""
    losses = np.random.default_rng(0).normal(size=(3, 8))
    losses[0] -= 5
    values = [(rate, seed) for rate in range(3) for seed in range(8) if rate < 2 or seed == 3]
    outcomes = [
        Outcome(n, {"rate": rate, "seed": seed % 4, "fold": seed // 4}, 0) for n, (rate, seed) in enumerate(values)
    ]
    outcomes.append(Outcome(99, {"rate": 1, "seed": 77, "fold": 0}, 0))
    measured = [{"validation_loss": float(losses[place])} for place in values] + [{"validation_loss": 1e9}]

    best, tested, alone = means_of(outcomes, measured)
    assert "p to best" not in best | alone
    assert tested["p to best"] == pytest.approx(stats.wilcoxon(losses[1] - losses[0]).pvalue)


def test_the_least_p_value_is_that_of_the_seeds_in_common(capsys):
    values = [(rate, seed) for rate, seeds in enumerate([range(4), range(2, 6)]) for seed in seeds]
    outcomes = [Outcome(n, {"rate": rate, "seed": seed}, 0) for n, (rate, seed) in enumerate(values)]
    rows = means_of(outcomes, [{"validation_loss": rate + seed / 9} for rate, seed in values])
    show_means(rows)

    assert "with 2 it is never below 0.5" in capsys.readouterr().out


def test_a_measure_that_the_first_point_lacks_has_a_mean_too():
    outcomes = [Outcome(seed, {"seed": seed}, 0) for seed in range(2)]

    assert means_of(outcomes, [{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == [{"runs": 2, "a": 2.0, "a ±": 2**0.5, "b": 5.0}]


def test_points_of_which_none_was_repeated_have_no_means(capsys):
    assert sweep("--grid", "rate=[0.5]", "--grid", "seed=[1]", epochs="1") == 0

    assert "\n\n" not in capsys.readouterr().out


def test_folds_are_averaged_and_none_of_them_is_best(capsys):
    Path("pains.py").write_text(
        f"fold = 0\n{LIGHT}{PAINS}\nkeys = [key for key in range(8) if key % 4 != fold]\n", "utf-8"
    )

    assert sweep("--grid", "fold=[0, 1, 2]", epochs="2") == 0
    rows, means = (part.splitlines() for part in capsys.readouterr().out.split("\n\n"))
    assert [len(rows), len(means)] == [4, 2]
    assert means[1].split()[0] == "3"
    assert "best" not in " ".join(rows + means)


def test_the_picture_has_a_panel_for_each_axis_and_a_dot_for_each_point():
    assert sweep("--grid", "rate=[0.5, 0.1]", "--grid", "pain=['', 'error', 'none']", epochs="2") == 1

    drawn = ElementTree.fromstring(Path("runs/pains/s/sweep.svg").read_text("utf-8"))
    texts = ["".join(one.itertext()) for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "validation_loss of s, 4 points"
    assert {"rate", "pain", "0.1", "0.5"} <= {*texts}
    dots = [*drawn.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == 8
    assert sum(dot.get("fill") == MARK for dot in dots) == 4  # two are equally good
    assert all("validation_loss" not in "".join(dot.itertext()) for dot in dots)


@given(
    st.lists(
        st.tuples(st.floats(allow_nan=True), st.floats(allow_nan=True), st.text(max_size=9)), min_size=2, max_size=30
    )
)
def test_anything_measured_is_drawn_as_well_formed_text_within_the_page(told):
    values = [{"a": one, "b": text} for one, _, text in told]

    drawn = picture(values, [{"loss": height} for _, height, _ in told])

    if drawn:
        for dot in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(dot.get("cx")) <= 260
            assert 0 <= float(dot.get("cy")) <= 260


def test_many_words_stand_side_by_side():
    drawn = picture([{"name": f"w{place}"} for place in range(200)], [{"loss": 1.0}] * 200)

    places = [float(dot.get("cx")) for dot in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}circle")]
    assert len(set(places)) == 200
    assert max(places) - min(places) > 140


def test_each_colour_of_the_picture_has_one_for_readers_in_the_dark():
    drawn = ElementTree.fromstring(picture([{"rate": 0.1}, {"rate": 0.01}], [{"loss": 2.0}, {"loss": 1.0}]))

    used = {one.get(what) for one in drawn.iter() for what in ("fill", "stroke")} - {None, "none"}
    assert used <= {light for light, _ in COLORS.values()}
    assert drawn[0].text.startswith("@media (prefers-color-scheme: dark)")


def test_words_stand_in_the_order_of_the_grid_whatever_was_drawn_first():
    points = [{"size": "large"}, {"size": "small"}]
    drawn = picture(points, [{"loss": 1.0}, {"loss": 2.0}], grid={"size": ["small", "medium", "large"]})

    assert drawn.index(">small<") < drawn.index(">large<")


def test_no_two_points_have_a_picture_of_none():
    assert picture([{"rate": 0.1}], [{"loss": 1.0}]) == picture([], []) == ""


def test_a_value_that_cannot_be_written_down_is_refused():
    with pytest.raises(ConfigError, match="no literal"):
        key_of({"rate": object()})
