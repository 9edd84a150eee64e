"""The command line: what it prints where, what it leaves, and how it exits."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from experimentator import build_experiment
from experimentator.cli import main
from experimentator.commands import failures, usage
from experimentator.commands.help import HELP
from experimentator.commands.results import show_epochs, show_table
from experimentator.config import ConfigError, parse_assignment
from experimentator.records.history import read_history
from experimentator.sweep.points import literal, names_in
from tests.pictures import needs_pictures

ROOT = Path(__file__).resolve().parent.parent
LIGHT = str(ROOT / "tests" / "configs" / "light.py")
DIGITS = str(ROOT / "tests" / "configs" / "digits.py")
HELPS = {command: text for command, (text, _) in usage.USAGE.items()}
COMMAND = [sys.executable, "-m", "experimentator"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("EXPERIMENTATOR_TRACEBACK", raising=False)


def started(*words):
    return subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(found, seconds=60.0):
    """Wait for a condition, not for long."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def only_run(project="light"):
    return Path("runs", project, "latest").resolve()


# Help and usage


@pytest.mark.parametrize(
    "words, text",
    [(["--help"], HELP), *(([command, "--help"], text) for command, text in HELPS.items())],
)
def test_help_is_laid_out_by_hand_and_goes_to_stdout(words, text, capsys):
    assert main(words) == 0

    assert capsys.readouterr() == (text, "")
    assert "Exit status:" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("command, text", HELPS.items())
def test_the_help_lists_every_option_and_no_other(command, text):
    options = {option for action in usage._parser(command)._actions for option in action.option_strings}

    assert set(re.findall(r"^  (--?[a-z-]+)", text, re.M)) == (options & set(text.split())) - {"-h", "--help"}
    assert options - set(re.findall(r"--?[a-z-]+", text)) <= {
        "-h",
        "--report",
        "--parent",
        "--forked",
        "--output",
        "--help",
    }


def test_help_loads_nothing_heavy():
    code = "import sys; from experimentator.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"numpy", "networkx", "rich", "tensorflow", "keras"} & set(done.stderr.split())


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0

    assert re.fullmatch(r"experimentator \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "name a configuration file"),
        (["grpah", "task.py"], "Did you mean 'graph'?"),
        (["rnu", "task.py"], "Did you mean 'run'?"),
        (["learn", "task.py"], "Commands are run, graph, bench, runs, evaluate, predict, export, verify-resume."),
        (["run"], "required: CONFIG"),
        ([LIGHT, "--epochs", "few"], "'few' is no whole number"),
        ([LIGHT, "--epoch", "3"], "unrecognized arguments: --epoch 3\nDid you mean --epochs? Type: "),
        (["graph", LIGHT, "--themes=dark", "--opne"], "Did you mean --theme and --open? Type: "),
        ([LIGHT, "--parnt", "3"], "unrecognized arguments: --parnt 3\nTo give"),
        ([LIGHT, "--set", "rate", "0.1"], "argument --set: 'rate' is not an assignment: write rate=VALUE\nType: "),
        (
            [LIGHT, "rate=1", "--rate", "0.1"],
            "names of the configuration other values: --set rate=1 --set rate=0.1\nType: ",
        ),
        (
            ["bench", LIGHT, "--rate", "--step", "names=['a', 'b']"],
            "values: --set rate=VALUE --set names=VALUE\nType: ",
        ),
        ([LIGHT, "epochs=3"], "unrecognized arguments: epochs=3\nDid you mean --epochs? Type: "),
        ([LIGHT, "-x"], "unrecognized arguments: -x\nType: "),
        (["runs", "--rate=1"], "unrecognized arguments: --rate=1\nType: "),
        ([LIGHT, "--set", "rat=1"], "Did you mean 'rate'?"),
        ([LIGHT, "--grid", "rate=0.1"], "is not a list"),
        ([LIGHT, "--grid", "rat=[0.1]"], "Did you mean 'rate'?"),
        ([LIGHT, "--experiment-id", "../up"], "no name for a folder"),
        (["nowhere.py"], "no configuration file 'nowhere.py'"),
        (["graph", LIGHT, "-o", "graph.jpg"], "No diagram format"),
        (["graph", LIGHT, "--for", "los"], "Did you mean 'loss'"),
        ([LIGHT, "--set", "subsets=[]"], "nothing to train on"),
    ],
)
def test_a_mistake_of_use_exits_2_with_one_message(words, said, capsys):
    assert main(words) == 2

    out, err = capsys.readouterr()
    assert said in err
    assert err.startswith("error: ")
    assert "Traceback" not in out + err


# Errors


@pytest.mark.parametrize(
    "trouble, status, said",
    [
        ("dataset", 3, "Key 3 of subset 'training'"),
        ("nan", 4, "The loss became nan"),
        ("processor", 1, "in the middle"),
    ],
)
def test_the_exit_status_tells_the_cause(trouble, status, said, capsys):
    assert main([LIGHT, "--quiet", "--set", f"trouble={trouble}"]) == status

    assert said in capsys.readouterr().err


def test_an_impossible_output_folder_exits_5_before_training(capsys):
    Path("file").write_text("")

    assert main([LIGHT, "--quiet", "--output-folder", "file/runs"]) == 5

    out, err = capsys.readouterr()
    assert "Set output_folder to a folder where you may write." in err
    assert out == ""


def test_a_run_is_never_overwritten(capsys):
    words = [LIGHT, "--quiet", "--epochs", "1", "--experiment-id", "first"]

    assert [main(words), main(words)] == [0, 5]
    assert "already a run 'first'" in capsys.readouterr().err


def test_an_error_in_the_users_code_shows_the_users_lines_only(capsys):
    assert main([LIGHT, "--quiet", "--set", "trouble=processor"]) == 1

    err = capsys.readouterr().err
    assert "error: ZeroDivisionError: in the middle\nIn chunk processor" in err
    assert 'raise ZeroDivisionError("in the middle")' in err
    assert str(ROOT / "graph") not in err
    assert str(ROOT / "experimentator") not in err


def test_traceback_shows_every_frame(capsys):
    assert main([LIGHT, "--quiet", "--traceback", "--set", "trouble=processor"]) == 1

    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert str(ROOT / "experimentator") in err


def test_an_error_in_a_configuration_shows_its_line(capsys):
    Path("task.py").write_text("rate = 1\nscale = rate / 0\n")

    assert main(["task.py"]) == 2

    err = capsys.readouterr().err
    assert "task.py:2: ZeroDivisionError: division by zero\n    scale = rate / 0" in err
    assert err.count("scale = rate / 0") == 1


def test_an_error_below_a_configuration_shows_the_way_to_it(capsys):
    Path("task_parts.py").write_text("def halve(x):\n    return x / 0\n")
    Path("task.py").write_text("from task_parts import halve\nrate = halve(1)\n")

    assert main(["task.py"]) == 2

    assert capsys.readouterr().err.endswith("task_parts.py:2 in halve\n    return x / 0\n")


def test_a_configuration_may_exit_by_itself():
    Path("task.py").write_text("import sys; sys.exit(7)")

    assert main(["task.py"]) == 7


def test_words_of_the_command_are_not_those_of_a_configuration(monkeypatch, capsys):
    parsing = (
        'import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument("--width", type=int, default=3)\n'
    )
    Path("light.py").write_text(f"{parsing}width = parser.parse_args().width\n{Path(LIGHT).read_text()}")
    monkeypatch.setattr(sys, "argv", ["experimentator", "run", "light.py", "--quiet"])

    assert main(sys.argv[1:]) == 0
    assert json.loads((only_run() / "config.json").read_text())["width"] == 3
    assert json.loads((only_run() / "environment.json").read_text())["argv"] == sys.argv


def test_of_a_strangers_long_error_the_first_lines_are_shown():
    frames = '\n  File "/usr/lib/python3.11/threading.py", line 995, in _bootstrap\n' * 30
    error = RuntimeError(f"Graph execution error:\n{frames}\nReceived a label of 12.\n" + "0 bytes\n" * 40)

    shown = failures.message(error).splitlines()

    assert shown[:2] == ["error: RuntimeError: Graph execution error:", "Received a label of 12."]
    assert shown[-2:] == ["... 27 more lines", "Type the command with --traceback to see every frame."]
    assert len(shown) == 17


def test_an_error_is_told_where_the_current_folder_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(KeyError) as caught:
        raise KeyError("mine")
    told = failures.message(caught.value)
    monkeypatch.chdir(tmp_path)

    assert told.startswith("error: KeyError: 'mine'")
    assert __file__ in told


def test_an_error_that_is_its_own_cause_is_told_once():
    error = ZeroDivisionError("division by zero")
    error.__cause__ = error  # as `raise error from error` sets it

    assert failures.message(error).splitlines()[0::2] == ["error: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    "error, status",
    [(failures.Terminated(), 143), (KeyboardInterrupt(), 130), (PermissionError(), 5), (RuntimeError(), 1)],
)
def test_every_cause_has_a_status(error, status):
    assert failures.exit_status(error) == status


# Runs


@needs_pictures
def test_a_run_prints_its_results_and_leaves_its_folder(capsys):
    assert main(["run", LIGHT, "--epochs", "3"]) == 0

    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == [
        "epoch",
        "training_loss",
        "training_slope",
        "validation_loss",
        "validation_slope",
        "epoch_time",
    ]
    assert re.search(r"^run folder +runs/light/", out, re.M)
    assert "3/3  training loss" in err
    names = "config.json config.py environment.json history.jsonl log.txt pipeline.json pipeline.svg status.json"
    assert sorted(os.listdir(only_run())) == ["checkpoints", *names.split(), "weights.safetensors"]
    assert [row["epoch"] for row in read_history(only_run())] == [1, 2, 3]


def test_quiet_is_quiet(capsys):
    assert main([LIGHT, "--quiet", "--epochs", "1"]) == 0

    assert capsys.readouterr().err == ""


def test_overrides_are_recorded(capsys):
    assert main([LIGHT, "--quiet", "--epochs", "1", "--set", "rate=0.5", "--seed", "3"]) == 0

    assert json.loads((only_run() / "config.json").read_text())["rate"] == 0.5
    environment = json.loads((only_run() / "environment.json").read_text())
    assert environment["overrides"] == {"rate": 0.5, "seed": 3, "hide_progress": True}
    assert environment["seed"] == 3


@pytest.mark.parametrize(
    "line, words, epochs", [("", [], 10), ("epochs = 4", [], 4), ("epochs = 4", ["--epochs", "2"], 2)]
)
def test_epochs_come_from_the_option_the_configuration_or_are_ten(line, words, epochs, capsys):
    Path("task.py").write_text(f"{Path(LIGHT).read_text()}\n{line}\n")

    assert main(["task.py", "--quiet", *words]) == 0

    assert len(read_history(only_run("task"))) == epochs


@pytest.mark.parametrize("epochs", ['"three"', "-1", "2.5", "True"])
def test_epochs_that_are_no_number_are_refused(epochs, capsys):
    Path("task.py").write_text(f"{Path(LIGHT).read_text()}\nepochs = {epochs}\n")

    assert main(["task.py", "--quiet"]) == 2
    assert "Write a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_harmless(closed):
    words = " ".join(map(shlex.quote, [*COMMAND, LIGHT, "--epochs", "1"]))

    done = subprocess.run(["/bin/sh", "-c", f"{words} {closed}"], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "Error" not in done.stdout + done.stderr
    assert len(read_history(only_run())) == 1


def test_an_output_folder_of_the_configuration_is_kept(capsys):
    assert main([LIGHT, "--quiet", "--epochs", "1", "--set", "output_folder=mine", "--set", "project_name=ours"]) == 0

    assert Path("mine", "ours", "latest").is_dir()


@pytest.mark.parametrize("stop, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_the_middle_the_history_is_intact(stop, status):
    child = started(LIGHT, "--quiet", "--epochs", "1000000")
    until(lambda: Path("runs/light/latest/history.jsonl").exists() and read_history("runs/light/latest"))

    child.send_signal(stop)
    out, err = child.communicate(timeout=20)

    assert child.returncode == status
    assert out == ""
    assert f"what they gave is in {Path('runs', 'light')}" in err
    assert json.loads((only_run() / "status.json").read_text())["status"] == "interrupted"
    epochs = [row["epoch"] for row in read_history(only_run())]
    assert epochs == list(range(1, len(epochs) + 1))


def test_a_terminal_that_is_closed_ends_a_training_with_all_it_has():
    """Which sends SIGHUP, as the shell does; nothing can be written to it any more."""
    before, (read, write) = signal.signal(signal.SIGHUP, signal.SIG_DFL), os.pipe()
    child = subprocess.Popen([*COMMAND, LIGHT, "--quiet", "--epochs", "1000000"], stdout=write, stderr=write)
    signal.signal(signal.SIGHUP, before)
    until(lambda: Path("runs/light/latest/history.jsonl").exists() and read_history("runs/light/latest"))
    os.close(read)

    for _ in range(2):
        child.send_signal(signal.SIGHUP)
    status = child.wait(timeout=20)
    os.close(write)

    assert status == 143
    assert json.loads((only_run() / "status.json").read_text())["status"] == "interrupted"


@needs_pictures
def test_a_real_network_is_trained_without_noise():
    child = started(DIGITS, "--epochs", "2")
    out, err = child.communicate(timeout=120)

    assert child.returncode == 0, err
    assert "validation_accuracy" in out
    assert [line.split()[0] for line in err.splitlines()] == ["1/2", "2/2"]


def test_epochs_by_another_name_are_told_to_be_nobodys(capsys):
    Path("task.py").write_text(Path(LIGHT).read_text("utf-8") + "\nnum_epochs = 3\n", "utf-8")

    assert main(["task.py", "--quiet"]) == 0
    assert capsys.readouterr().err.startswith("num_epochs is a name of your own: 10 epochs are trained.")
    assert len(read_history(only_run("task"))) == 10
    assert main(["task.py", "--quiet", "--epochs", "1"]) == 0
    assert "num_epochs" not in capsys.readouterr().err


def test_a_seed_gives_the_same_training_here_and_from_python():
    """The process of the command imports for the first time what this one has long imported."""
    child = started(DIGITS, "--quiet", "--epochs", "1", "--seed", "3")
    child.communicate(timeout=120)
    exp = build_experiment(DIGITS, seed=3, hide_progress=True)
    (told,), (here,) = read_history(only_run("digits")), exp.train(1)

    assert {**told, "epoch_time": 0} == {**here, "epoch_time": 0}


LEFT_OPEN = """
class Log:
    def init(self, exp):
        self.exp, self.itself, self.file = exp, self, open("log.txt", "w")

    def on_epoch_end(self, epoch, **_):
        self.file.write(f"{epoch}\\n")

callbacks = [Log()]
"""
OPEN_BEFORE = """
log = open("log.txt", "w")

def note(text):
    log.write(text)

class Log:
    def on_epoch_end(self, epoch, **_):
        note(f"{epoch}\\n")
"""
DETACHED = """
import io, weakref

class Asked(Log):
    def init(self, exp):
        super().init(exp)
        self.seen, self.other = weakref.proxy(exp), io.TextIOWrapper(io.BytesIO())
        self.other.detach()

callbacks = [Asked()]
"""
ENDING = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 100_000))
from experimentator.cli import main
sys.exit(main())
"""


@pytest.fixture
def as_large():
    """A training that loads what has as many objects as a framework, in a tenth of the time."""
    Path("as_large.py").write_text("objects = [[] for _ in range(150_000)]", "utf-8")
    return f"import as_large\nmetrics = ['slope']\n{Path(LIGHT).read_text('utf-8')}"


@pytest.mark.parametrize(
    "before, after, is_let_be",
    [
        (None, "", "True"),
        ("", "", "True"),
        ("", LEFT_OPEN, "False"),
        (OPEN_BEFORE, "callbacks = [Log()]", "False"),
        ("", LEFT_OPEN + DETACHED, "False"),
    ],
    ids=["a framework", "nothing open", "a file", "a file open before", "what cannot be asked"],
)
def test_a_process_ends_without_a_last_look_at_a_framework_unless_something_is_to_be_closed(
    before, after, is_let_be, as_large
):
    """`atexit` runs what was registered first last."""
    task = Path(DIGITS).read_text("utf-8") if before is None else f"{before}\n{as_large}"
    Path("task.py").write_text(f"{task}\n{after}", "utf-8")
    words = [sys.executable, "-c", ENDING, "run", "task.py", "--quiet", "--epochs", "3"]

    done = subprocess.run(words, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == is_let_be
    assert is_let_be == "True" or Path("log.txt").read_text("utf-8").split() == ["1", "2", "3"]


def test_a_package_that_would_tell_of_objects_left_has_its_last_look(as_large):
    told = "import sys, types\nsys.modules['triton'] = types.ModuleType('triton')\n"
    Path("task.py").write_text(told + as_large, "utf-8")
    words = [sys.executable, "-c", ENDING, "run", "task.py", "--quiet", "--epochs", "1"]

    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_where_others_have_objects_too_nothing_is_taken_from_the_collector(as_large):
    Path("task.py").write_text(as_large, "utf-8")
    lines = (
        "import builtins, gc",
        "from experimentator.cli import main",
        "before = builtins.__import__",
        "main(['task.py', '--quiet', '--epochs', '1'])",
        "print(gc.get_freeze_count(), builtins.__import__ is before)",
    )
    done = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0 True"


# Grids


def test_a_grid_trains_each_point_in_a_folder_of_its_own(capsys):
    assert main([LIGHT, "--epochs", "2", "--grid", "rate=[0.01, 0.5]", "--experiment-id", "grid"]) == 0

    out, err = capsys.readouterr()
    assert sorted(os.listdir("runs/light")) == ["grid", "grid-1", "grid-2", "latest"]
    assert [line.split()[0] for line in out.splitlines()] == ["rate", "0.01", "0.5"]
    assert out.splitlines()[2].endswith("best")
    assert err.splitlines()[0] == "point 1/2  rate=0.01"
    assert [line for line in err.splitlines() if line.startswith("point 2")] == ["point 2/2  rate=0.5"]
    assert err.splitlines()[-1].startswith("runs/light/grid/sweep.svg shows what each axis does")


def test_a_failing_point_does_not_stop_the_others(capsys):
    assert main([LIGHT, "--quiet", "--epochs", "1", "--grid", "trouble=['nan', '']"]) == 4

    _, failed, finished = capsys.readouterr().out.splitlines()
    assert "exit 4" in failed
    assert "finished" in finished


@pytest.mark.parametrize("value", [1e-3, "two words", [1, (2.5, None)], float("-inf"), {"a": True}])
def test_a_value_reaches_the_process_of_its_point_unchanged(value):
    assert parse_assignment(f"rate={literal(value)}") == ("rate", value)


def test_a_value_that_is_no_literal_is_refused():
    with pytest.raises(ConfigError, match="no literal"):
        literal(object())


def test_a_configuration_that_is_too_deep_to_look_through_has_no_names_to_tell(tmp_path):
    (tmp_path / "config.py").write_text(f"rate = {' + '.join('1' * 900)}")

    assert names_in(str(tmp_path / "config.py")) == ()


def test_ctrl_c_stops_a_grid_and_its_training():
    child = started(LIGHT, "--quiet", "--epochs", "1000000", "--grid", "rate=[0.1, 0.2]")
    until(lambda: Path("runs/light/latest/history.jsonl").exists())

    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)

    assert child.returncode == 130
    assert json.loads((only_run() / "status.json").read_text())["status"] == "interrupted"
    assert len(os.listdir("runs/light")) == 3


def test_a_grid_that_is_killed_ends_its_training_which_the_next_one_goes_on_with(tmp_path, monkeypatch):
    (tmp_path / "told").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "told"))
    words = (LIGHT, "--quiet", "--epochs", "1000000", "--grid", "rate=[0.1, 0.2]", "--experiment-id", "g")
    child = started(*words, "--resume", "auto")
    until(lambda: Path("runs/light/latest/history.jsonl").exists())
    child.kill()
    child.communicate()

    until(lambda: json.loads((only_run() / "status.json").read_text())["status"] == "interrupted", seconds=30)
    assert "terminated" in json.loads((only_run() / "status.json").read_text())["error"].casefold()
    until(lambda: not os.listdir(tmp_path / "told"))


def test_a_resume_that_has_nothing_left_to_train_says_so_aloud():
    for more in ("2", "--checkpoint-seconds=0.001"), ("1", "--resume"):
        out, err = started(LIGHT, "--quiet", "--epochs", *more).communicate(timeout=60)
        assert "run folder" in out

    assert "2 epochs are done, 4 batches in all.\n" in err
    assert "Nothing to train: 2 of 1 epochs are done. train(3) trains one more.\n" in err


@pytest.mark.parametrize("text, written", [("name=[adam, True]", "name=['adam', True]"), ("a=[1, 2", "a='[1, 2'")])
def test_a_list_of_bare_words_is_answered_with_its_words_in_quotes(text, written, capsys):
    assert main([LIGHT, "--grid", text]) == 2

    assert f"in quotes if text is meant: {written}." in capsys.readouterr().err


READING = """
from experimentator import AsyncExperiment
experiment_type = [BaseExperiment, ByHandExperiment, CallbackedExperiment, AsyncExperiment]
workers, residency = "2 processes", "stream"
"""


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_processes_that_read_do_not_hold_up_the_end(number, status):
    """They would wait for a minute for something to read."""
    Path("light.py").write_text(Path(LIGHT).read_text("utf-8") + READING, "utf-8")
    child = started("light.py", "--quiet", "--epochs", "1000000")
    until(lambda: Path("runs/light/latest/history.jsonl").exists())

    child.send_signal(number)
    child.communicate(timeout=20)

    assert child.returncode == status


# Tables


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_drawn_table_of_the_last_epochs(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()

    with redirect_stdout(terminal):
        show_epochs([{"epoch": number, "training_loss": 0.5} for number in range(1, 31)])

    assert "training_loss" in terminal.getvalue()
    assert terminal.getvalue().count("0.5") == 20
    assert "10 earlier epochs are in history.jsonl." in terminal.getvalue()


def test_the_best_point_is_the_one_with_the_smallest_validation_loss():
    terminal = Terminal()

    with redirect_stdout(terminal):
        show_table([{"rate": 0.1}, {"rate": 0.2}], best=1)

    assert terminal.getvalue().endswith("Best: row 2.\n")


# Graphs


def test_a_graph_is_printed_as_a_table_and_leaves_no_run_folder(capsys):
    assert main(["graph", LIGHT, "--mode", "eval", "--set", "output_folder=runs"]) == 0

    assert capsys.readouterr().out.startswith("EVAL: 1 processor, batch_input, batch_target -> loss")
    assert os.listdir() == []


@needs_pictures
def test_a_graph_is_drawn_by_suffix(capsys):
    assert main(["graph", LIGHT, "--for", "slope", "-o", "graph.svg"]) == 0

    assert capsys.readouterr().out == "graph.svg\n"
    assert "slope" in Path("graph.svg").read_text()


def test_what_was_left_out_is_shown_with_why(capsys):
    assert main(["graph", LIGHT, "--plan", "--for", "batch_input"]) == 0

    assert "not needed for batch_input" in capsys.readouterr().out


def test_two_configurations_are_compared(capsys, tmp_path):
    other = tmp_path / "other.py"
    text = Path(LIGHT).read_text().replace("[square_error]", "[square_error, lambda chunk: None]")
    other.write_text(text.replace('"loss", "slope"', '"loss", "incline"').replace('("slope",)', '("incline",)'))

    assert main(["graph", LIGHT, "--diff", str(other)]) == 0
    assert "incline" in capsys.readouterr().out
    assert main(["graph", LIGHT, "--diff", LIGHT]) == 0
    assert capsys.readouterr().out.endswith("Nothing differs.\n")


def test_two_modes_are_compared(capsys):
    assert main(["graph", DIGITS, "--diff", "infer"]) == 0

    assert "- #" in capsys.readouterr().out


def test_a_run_folder_shows_its_graph_and_nothing_of_it_is_run(capsys):
    main(["run", LIGHT, "--epochs", "1", "--quiet"])
    (only_run() / "config.py").write_text("raise SystemExit('it ran')")
    capsys.readouterr()

    assert main(["graph", "runs/light/latest"]) == 0
    shown = capsys.readouterr().out
    assert "batch_input [B] float64" in shown
    assert shown.startswith(f"{only_run().name}, finished: TRAIN: ")
    assert main(["graph", "runs/light/latest", "--diff", "runs/light/latest"]) == 0
    assert capsys.readouterr().out.endswith("Nothing differs.\n")


@needs_pictures
def test_a_failed_run_shows_which_processor_failed(capsys):
    assert main(["run", LIGHT, "--epochs", "1", "--quiet", "--set", "trouble=processor"]) == 1
    capsys.readouterr()

    assert main(["graph", "runs/light/latest"]) == 0
    assert "failed: ZeroDivisionError" in capsys.readouterr().out
    assert "failed: ZeroDivisionError" in (only_run() / "pipeline.svg").read_text("utf-8")


@pytest.mark.parametrize(
    "words, told",
    [
        (["runs/light/latest", "--mode", "eval"], "a run folder holds the graph of TRAIN only"),
        (["runs", "--diff", "eval"], "runs"),
        (["absent.json"], "absent.json cannot be read"),
        (["binary.json"], "binary.json cannot be read\nSeen: no UTF-8 text"),
        (["runs/light/latest", "--for", "loss"], "holds one graph as it was"),
        (["runs/light/latest", "--diff", "infer"], "holds one graph as it was"),
        (["runs/light/latest", "--set", "rate=1"], "holds one graph as it was"),
        (["runs/light/latest/pipeline.json", "--mode", "eval"], "pipeline.json holds the graph of TRAIN"),
        ([LIGHT, "--all", "--for", "loss"], "--all cannot be given with --for"),
        ([LIGHT, "--all", "--plan"], "--all cannot be given with --plan"),
        ([LIGHT, "--tree", "--diff", "eval"], "--tree cannot be given with --diff"),
        ([LIGHT, "--tree", "-o", "tree.svg"], "--tree cannot be given with -o tree.svg"),
        ([LIGHT, "--tree", "--open"], "--tree cannot be given with --open"),
        (["runs"], "runs is no run folder\nSeen: no pipeline.json"),
        ([LIGHT, "--diff", "evl"], "Did you mean --diff eval?"),
        ([LIGHT, "--plan", "--for", "los"], "Did you mean 'loss'"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_error(words, told, capsys):
    main(["run", LIGHT, "--epochs", "1", "--quiet"])
    Path("binary.json").write_bytes(b"\xff\xfe")
    capsys.readouterr()

    assert main(["graph", *words]) == 2
    assert told in capsys.readouterr().err


def test_what_failed_in_another_mode_is_told_beside_the_graph(capsys):
    main(["run", LIGHT, "--epochs", "1", "--quiet"])
    status = {"status": "failed", "processors": {"Watch": "failed in EVAL: ValueError"}}
    (only_run() / "status.json").write_text(json.dumps(status))
    capsys.readouterr()

    assert main(["graph", "runs/light/latest"]) == 0
    assert ", failed, Watch failed in EVAL: ValueError: TRAIN: " in capsys.readouterr().out


def test_a_damaged_status_is_one_clear_error(capsys):
    main(["run", LIGHT, "--epochs", "1", "--quiet"])
    (only_run() / "status.json").write_text("[]")
    capsys.readouterr()

    assert main(["graph", "runs/light/latest"]) == 2
    assert "status.json is damaged" in capsys.readouterr().err


@needs_pictures
def test_a_declared_list_is_drawn_without_data_or_a_framework(tmp_path):
    (tmp_path / "declared.py").write_text(
        "from experimentator import chunk_processor\n"
        "names = ('x', 'x', 'loss')\n"
        "chunk_processors = [chunk_processor(inputs=['x'], outputs=[name])(lambda x: x) for name in names]\n"
    )
    code = (
        "import sys; from experimentator.cli import main\n"
        "status = [main(['graph', 'declared.py', *words]) for words in ([], ['--tree'], ['--plan'], ['-o', 'g.svg'])]\n"
        "print(status, *{'tensorflow', 'keras', 'jax', 'torch', 'pygraphviz'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.endswith("[0, 0, 0, 0]\n")


def test_a_terminal_without_unicode_gets_escapes(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "experimentator", "graph", LIGHT, "--tree"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)

    assert "\\u251c\\u2500 batch_input" in done.stdout


@needs_pictures
def test_open_draws_and_opens_the_browser(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    assert main(["graph", LIGHT, "--open"]) == 0
    written = Path(capsys.readouterr().out.strip())
    assert opened == [written.as_uri()]
    assert re.findall(r'"label":"([A-Z]+)"', written.read_text()) == ["TRAIN", "EVAL", "INFER"]


@needs_pictures
@pytest.mark.parametrize("asked", [["--mode", "eval"], ["--for", "loss"], ["--plan"], ["--diff", "eval"]])
def test_a_page_shows_one_graph_where_one_is_asked_for(asked, tmp_path, capsys):
    assert main(["graph", LIGHT, "-o", str(tmp_path / "graph.html"), *asked]) == 0

    assert len(re.findall(r'"label":"[A-Z]+', (tmp_path / "graph.html").read_text())) == 1
