"""Points of a sweep that begin where an earlier one's imports ended: as quick, and nothing else about them is new."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from experimentator.cli import main
from experimentator.records.history import read_history
from experimentator.sweep import fork_server

ROOT = Path(__file__).resolve().parent.parent
LIGHT = (ROOT / "tests" / "configs" / "light.py").read_text("utf-8")
DIGITS = (ROOT / "tests" / "configs" / "digits.py").read_text("utf-8")
# What is loaded where the configuration begins, in a file of the point.
WITNESS = """
import os, random, sys
from pathlib import Path
import numpy

rate = 0.5
loaded = "{module}" in sys.modules
Path(f"loaded-{{rate}}").write_text(f"{{loaded}} {{os.getppid()}} {{random.random()}} {{numpy.random.rand()}}")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def write(module, rest):
    Path("task.py").write_text(WITNESS.format(module=module) + rest.replace("rate = 0.5\n", ""), "utf-8")


def sweep(*words, rates="[0.5, 0.25, 0.125]"):
    return main(["task.py", "--quiet", "--epochs", "2", "--experiment-id", "s", "--grid", f"rate={rates}", *words])


def witnesses(*rates):
    return [Path(f"loaded-{rate}").read_text("utf-8").split() for rate in rates or (0.5, 0.25, 0.125)]


def loaded(*rates):
    return [witness[0] for witness in witnesses(*rates)]


def test_later_points_begin_with_a_framework_and_train_the_same_to_the_bit():
    write("keras", DIGITS.replace("learning_rate = 1e-2", "learning_rate = rate / 50"))

    assert sweep("--seed", "1", rates="[0.5, 0.125]") == 0

    assert loaded(0.5, 0.125) == ["False", "True"]
    assert {parent for _, parent, *_ in witnesses(0.5, 0.125)} == {str(os.getpid())}, "the sweep is their parent"
    words = ["task.py", "--quiet", "--epochs", "2", "--seed", "1", "--set", "rate=0.125", "--experiment-id", "alone"]
    subprocess.run([sys.executable, "-m", "experimentator", *words], check=True, timeout=120)
    alone, forked = (Path("runs", "task", name, "weights.safetensors").read_bytes() for name in ("alone", "s-2"))
    assert forked == alone


def test_unseeded_draws_are_each_points_own():
    write("numpy", LIGHT)

    assert sweep() == 0

    _, _, draws, of_numpy = zip(*witnesses(), strict=True)
    assert len(set(draws)) == len(set(of_numpy)) == 3


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_is_set_in_the_environment_before_an_import_is_set_there_for_every_point(jobs):
    write("networkx", 'os.environ["OF_AN_IMPORT"] = "set"\nimport networkx\n' + LIGHT)

    assert sweep("--jobs", jobs) == 0

    assert loaded() == ["False", "False", "False"]


CHANGES = """
if rate != 0.5:
    {line}
import vendored
Path(f"version-{{rate}}").write_text(f"{{vendored.version}} {{os.environ.get('VERSION')}}")
"""


@pytest.mark.parametrize(
    "line",
    ['os.environ["VERSION"] = "2"', 'sys.path.insert(0, str(Path("newer/site-packages").absolute()))'],
    ids=["the environment", "sys.path"],
)
@pytest.mark.parametrize("after", ["", "if rate != 0.5 and vendored.version != '2':\n    raise ValueError(rate)\n"])
def test_a_later_point_that_changes_what_an_import_depends_on_is_started_anew(line, after, monkeypatch):
    for folder, version in (("older", "os.environ.get('VERSION', '1')"), ("newer", "'2'")):
        Path(folder, "site-packages").mkdir(parents=True)
        Path(folder, "site-packages", "vendored.py").write_text(f"import os\nversion = {version}\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path("older/site-packages").absolute())]))
    write("vendored", CHANGES.format(line=line) + after + LIGHT)

    assert sweep() == 0

    assert [Path(f"version-{rate}").read_text("utf-8")[0] for rate in (0.5, 0.25, 0.125)] == ["1", "2", "2"]


def test_an_installed_module_does_not_stand_in_for_one_beside_the_configuration(monkeypatch):
    Path("site-packages").mkdir()
    Path("site-packages", "asks.py").write_text(
        "try:\n    import helpers\nexcept ImportError:\n    helpers = None\n", "utf-8"
    )
    Path("site-packages", "helpers.py").write_text("whose = 'installed'\n", "utf-8")
    Path("project").mkdir()
    Path("project", "helpers.py").write_text("whose = 'mine'\n", "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path("site-packages").absolute())]))
    note = "import asks\nPath(f'whose-{rate}').write_text(asks.helpers.whose)\n"
    write("asks", note + LIGHT)
    Path("task.py").rename("project/task.py")

    words = ["project/task.py", "--quiet", "--epochs", "1", "--experiment-id", "s", "--grid", "rate=[0.5, 0.25]"]
    assert main(words) == 0

    assert [Path(f"whose-{rate}").read_text("utf-8") for rate in (0.5, 0.25)] == ["mine", "mine"]


def test_a_fork_that_no_sweep_knows_of_ends():
    """As when the sweep is killed between the fork and its adoption."""
    code = """
import json, os
from experimentator.sweep import fork_server
one = fork_server.ForkServer()
one.learn(fork_server.Loaded().told())
one._open(dict(os.environ))
assert one._answer() == fork_server.READY
order = {"words": ["--version"], "adopted": "nowhere", "printed": None, "environment": dict(os.environ)}
one.orders.write((json.dumps(order) + chr(10)).encode())
print(one._answer().decode(), flush=True)
os._exit(0)
"""
    with open("told", "w+", encoding="ascii") as told:  # no pipe, which the fork would hold open until it ends
        subprocess.run([sys.executable, "-c", code], stdout=told, check=True, timeout=120)

    pid = int(Path("told").read_text("ascii").split()[0])
    until = time.monotonic() + fork_server.ADOPTION_SECONDS / 2  # without waiting for a sweep that is gone
    with suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < until, "it waits for ever"
            time.sleep(0.1)


@pytest.mark.parametrize(
    "line, was_loaded",
    [
        ("value = 1", "True"),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "False"),
    ],
    ids=["nothing", "a thread"],
)
def test_a_module_that_starts_a_thread_is_imported_by_every_point(line, was_loaded, monkeypatch):
    place = Path("site-packages")
    place.mkdir()
    (place / "an_import.py").write_text(line, "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(place.absolute())]))
    write("an_import", f"import an_import\n{LIGHT}")

    assert sweep() == 0

    assert loaded() == ["False", was_loaded, was_loaded]


def test_a_module_of_ones_own_is_read_by_every_point():
    """It may change while a sweep runs."""
    Path("of_mine.py").write_text("value = 1", "utf-8")
    write("of_mine", f"import of_mine\n{LIGHT}")

    assert sweep() == 0

    assert loaded() == ["False", "False", "False"]


def test_a_sweep_goes_on_where_the_process_that_waits_is_killed():
    kill = """
import signal
from contextlib import suppress
if rate == 0.25:
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that ended meanwhile
            words, parent = (place / "cmdline").read_bytes(), (place / "stat").read_text().split()[3]
            is_other = place.name != str(os.getpid()) and parent == str(os.getppid())
            if is_other and b"experimentator.sweep.fork_server" in words:
                os.kill(int(place.name), signal.SIGKILL)
                Path("killed").touch()
"""
    write("rich.progress", kill + LIGHT)

    assert sweep(rates="[0.5, 0.25, 0.125, 0.75]") == 0

    assert Path("killed").exists()
    assert loaded() == ["False", "True", "False"]
    assert [len(read_history(f"runs/task/s-{number}")) for number in (1, 2, 3, 4)] == [2, 2, 2, 2]


def test_a_long_point_is_nobodys_beginning(monkeypatch):
    monkeypatch.setattr("experimentator.sweep.supervisor.QUICK", 0.0)
    write("rich.progress", LIGHT)

    assert sweep() == 0

    assert loaded() == ["False", "False", "False"]


def test_a_forked_process_is_waited_for_as_others_are():
    pid = os.fork()
    if not pid:
        signal.pause()
    process = fork_server.Forked(pid)

    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.05)
    process.kill()
    assert process.wait(timeout=10) == process.returncode == -signal.SIGKILL
    process.terminate()  # nobody is there any more


def test_what_a_point_prints_is_its_own(capfd):
    write("numpy", f'print("point", rate)\n{LIGHT}')

    assert sweep("--jobs", "2") == 0
    assert sweep("--resume", "auto", rates="[0.5, 0.25, 0.125, 'no number', 'nor this']") == 1

    told = capfd.readouterr().err
    assert re.findall(r"^  point (.*)$", told, re.MULTILINE) == ["no number"], "of the same errors, the first is shown"
