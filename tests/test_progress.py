"""What a person sees of a training: bars on a terminal, lines elsewhere, never on stdout, never in its way."""

from __future__ import annotations

import io
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from experimentator import Callback, Mode, PrintLoss, build_experiment
from experimentator.averages import Averages
from experimentator.callbacks import progress as module
from experimentator.callbacks.order import Listener
from experimentator.callbacks.progress import Progress, grouped
from tests.stand_ins import subsets
from tests.test_experiment import config

ROWS = [
    {"epoch": 1, "training_loss": 0.21, "validation_loss": 1.25, "validation_accuracy": 0.5, "epoch_time": 1.23},
    {"epoch": 2, "training_loss": 0.09312, "validation_loss": 0.125, "validation_accuracy": 0.93, "epoch_time": 75.0},
]


class Still(Averages):
    """Averages as they stand in the middle of a pass."""

    def __init__(self, **values):
        super().__init__()
        self.values, self.asked = values, 0

    def means(self):
        self.asked += 1
        return self.values


def play(progress, rows=ROWS, blocks=(), end=True):
    """Fire the events of a training with these results, as an experiment would."""
    exp = SimpleNamespace(history=[], subsets=subsets(), eager=False, counts={})
    progress.init(exp)
    listener, state = Listener(progress, 0), {"epochs": len(rows)}
    for row in rows:
        state.update(epoch=row["epoch"], cycle_name="training", steps=10, mode=Mode.TRAIN)
        listener.call("epoch_begin", state)
        listener.call("cycle_begin", state)
        for batch, averages in enumerate(blocks):
            listener.call("block_end", {**state, "batch": batch, "averages": averages})
        exp.history.append(row)
        listener.call("epoch_end", {**state, **row})
    if end:
        listener.call("train_end", state)


def terminal(width=120):
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False)


def lines(text):
    """The lines that stay; bars are drawn between them and taken away again."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "\n", text)
    return [line.rstrip() for line in plain.split("\n") if re.match(r" *\d+/\d+  |     ", line)]


def test_lines_group_names_by_subset_and_stand_in_columns(capsys):
    play(Progress())

    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1/2  training loss 0.210  | validation loss 1.250  accuracy 0.500  | 1.2 s",
        "2/2  training loss 0.0931 | validation loss 0.125  accuracy 0.930  | 75.0 s",
    ]


def test_a_long_line_stays_one_line_where_it_is_piped():
    console = Console(file=io.StringIO(), width=40)
    play(Progress(console), [{"epoch": 1, **{f"training_metric_{n}": n / 7 for n in range(30)}}])

    assert len(console.file.getvalue().splitlines()) == 1


def test_a_narrow_terminal_keeps_names_with_their_numbers():
    console = terminal(width=55)
    play(Progress(console), ROWS[:1])

    assert lines(console.file.getvalue()) == [
        "1/1  training loss 0.210",
        "     validation loss 1.250 accuracy 0.500 | 1.2 s",
    ]


@pytest.mark.parametrize("loss", [12345.678, 9.99999, 0.012345, 1.2345e-7])
def test_80_columns_hold_the_epochs_of_a_classifier(loss):
    console = terminal(width=80)
    row = {"epoch": 20, "training_loss": loss, "validation_loss": 0.88812, "validation_accuracy": 0.869}
    play(Progress(console), [{**row, "epoch": number + 1, "epoch_time": 12.4} for number in range(20)])

    assert len(lines(console.file.getvalue())) == 20


@pytest.mark.parametrize(
    "value, shown", [(1.7914, "1.791"), (0.888, "0.888"), (0.00123456, "0.00123"), (123.456, "123.5"), (0, "0.000")]
)
def test_numbers_are_short(value, shown):
    assert module._number(value) == shown


def test_columns_give_way_before_a_line_is_folded():
    console = terminal(width=72)
    play(Progress(console), ROWS[:1])

    assert lines(console.file.getvalue()) == ["1/1  training loss 0.210 | validation loss 1.250 accuracy 0.500 | 1.2 s"]


def test_no_line_is_wider_than_the_terminal():
    console = terminal(width=50)
    play(Progress(console), [{"epoch": 1, **{f"training_metric_{n}": n / 7 for n in range(30)}}])

    kept = [line for line in lines(console.file.getvalue()) if "metric" in line]
    assert sum(line.count("metric_") for line in kept) == 30
    assert max(map(len, kept)) <= 50


def test_bars_show_epochs_batches_speed_and_the_loss_so_far(monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    console = terminal()
    play(Progress(console), blocks=[Still(loss=0.5, accuracy=0.25, top=0.5, never=9.0)] * 3)

    drawn = console.file.getvalue()
    assert "epochs" in drawn
    assert "1/2" in drawn
    assert "3/10" in drawn
    assert "batches/s  loss 0.500 accuracy 0.250 top 0.500" in drawn
    assert "never" not in drawn


def test_what_comes_before_the_first_batch_is_said_and_the_first_epoch_tells_how_long_all_will_take(monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    console, clock = terminal(), iter(range(1000))
    console.get_time = lambda: float(next(clock))
    play(Progress(console), blocks=[Still(loss=0.5)] * 9, end=False)

    drawn = console.file.getvalue()
    assert re.search("batches .* reading data", drawn)
    assert re.search(r"training .* 0/10 .*compiling", drawn)
    assert re.search(r"epochs .* 0/2 +0:0\d:\d\d", drawn)


def test_a_bar_is_that_of_its_pass_again_after_an_evaluation_within_it(monkeypatch):
    class Within(Callback):
        every, when = 2, Mode.TRAIN

        def init(self, exp):
            self.exp = exp

        def on_batch_end(self, **_):
            self.exp.evaluate("validation")

    console = terminal()
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(
        "experimentator.features.Progress",
        type("Here", (Progress,), {"__init__": lambda self: Progress.__init__(self, console)}),
    )
    build_experiment(config(callbacks=[Within()], batch_size=8, hide_progress=False)).train(2)

    drawn = re.findall(r"(training|validation)\S* +\S* +(\d+/\d+)", console.file.getvalue())
    assert {("training", f"{n}/6") for n in (2, 4, 6)} <= set(drawn)
    assert {count.partition("/")[2] for name, count in drawn if name == "validation"} == {"2"}


def test_a_narrow_terminal_keeps_the_counts_and_the_time_to_go(monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    console = terminal(width=60)
    play(Progress(console), blocks=[Still(loss=0.5, accuracy=0.25, top=0.5)] * 3)

    drawn = console.file.getvalue()
    assert re.search(r"training .* 3/10 +(-:--:--|\d:\d\d:\d\d) [\d,]+ b.*…", drawn)


def test_bars_are_drawn_a_few_times_a_second_whatever_the_number_of_calls():
    averages = Still(loss=0.5)
    play(Progress(terminal()), blocks=[averages] * 500)

    assert averages.asked <= 5


def test_nothing_is_asked_for_where_nothing_is_drawn():
    averages = Still(loss=0.5)
    play(Progress(Console(file=io.StringIO())), blocks=[averages])

    assert averages.asked == 0
    assert not Listener(Progress(), 0).hears("batch_end")
    assert not Listener(Progress(), 0).hears("batch_begin")


def test_no_thread_is_left_running_nor_started():
    before = threading.active_count()
    play(Progress(terminal()), end=False)

    assert threading.active_count() == before


def test_the_display_closes_with_the_training_and_opens_again():
    console = terminal()
    progress = Progress(console)
    for _ in range(2):
        play(progress)
        assert progress.bars is None
    assert console.file.getvalue().count("\x1b[?25h") == 2  # the cursor shows again


@pytest.mark.parametrize("piped", [True, False])
def test_what_a_callback_prints_stays_on_a_stdout_that_is_piped(piped, monkeypatch):
    stdout = io.StringIO()
    monkeypatch.setattr(stdout, "isatty", lambda: not piped)
    monkeypatch.setattr(sys, "stdout", stdout)
    console = terminal()
    play(Progress(console), end=False)
    print("a result")

    assert ("a result" in stdout.getvalue()) is piped
    assert ("a result" in console.file.getvalue()) is not piped


class Gone(io.StringIO):
    """A terminal whose other end has left."""

    def isatty(self):
        return True

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise OSError(5, "Input/output error")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stderr", [None, closed(), Gone()], ids=["none", "closed", "gone"])
def test_a_stderr_that_is_gone_stops_nothing(stderr, monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    monkeypatch.setattr(sys, "stderr", stderr)
    play(Progress(), blocks=[Still(loss=0.5)] * 3)
    PrintLoss().on_cycle_end("training", {"training_loss": 0.5}, {})


def test_a_stderr_that_goes_in_the_middle_stops_nothing(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = Progress()
    play(progress, ROWS[:1], end=False)
    stream.close()
    play(progress, ROWS)


@pytest.mark.parametrize("name", ["[/red]", "[bold]", ":smile:", "a%s{b}"])
def test_names_are_shown_as_they_are(name, monkeypatch):
    monkeypatch.setattr(module, "REDRAW_SECONDS", 0.0)
    console = terminal()
    play(Progress(console), [{"epoch": 1, f"training_{name}": 0.5}], blocks=[Still(**{name: 0.5})])

    assert f"training {name} 0.500" in console.file.getvalue()
    assert f"batches/s  {name} 0.500" in console.file.getvalue()


def test_values_that_are_no_numbers_are_shown_too():
    console = Console(file=io.StringIO(), width=200)
    play(Progress(console), [{"epoch": 1, "training_loss": float("nan"), "note": "best", "extra": None, "n": [1]}])

    shown = " ".join(console.file.getvalue().split())
    assert shown == "1/1 training loss nan | note best extra None n [1] | 0.0 s"


def test_a_name_belongs_to_the_longest_subset_it_starts_with():
    row = {"a_b_loss": 1, "a_loss": 2, "ab_loss": 3, "loss": 4}

    assert grouped(row, ["a", "a_b"]) == {"a": {"loss": 2}, "a_b": {"loss": 1}, "": {"ab_loss": 3, "loss": 4}}


NOTEBOOK = """
import io, sys, time
from types import SimpleNamespace
from experimentator.callbacks import progress as module
from experimentator.callbacks.progress import Progress
from tests.test_progress import ROWS, Still, play

module.CELL_SECONDS = 0.0
play(Progress(), blocks=[Still(loss=0.5), Still(loss=0.25)])
"""


@pytest.mark.filterwarnings("ignore")  # of the notebook's own machinery
def test_in_a_notebook_one_line_for_each_epoch_moves_and_then_holds_its_results():
    root = str(Path(__file__).parents[1])
    cell = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {root!r})\n{NOTEBOOK}")
    book = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()

    shown = [
        output["data"]["text/plain"] for output in book.cells[0].outputs if output["output_type"] == "display_data"
    ]
    assert [line[:14] for line in shown] == ["1/2  training ", "2/2  training "]
    assert "validation loss 1.250" in shown[0]
    assert "75.0 s" in shown[1]
    assert not [output for output in book.cells[0].outputs if output["output_type"] == "stream"]


def test_a_pass_that_takes_long_writes_a_line_now_and_then_where_nothing_can_be_drawn(monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    console = Console(file=io.StringIO())
    play(Progress(console), rows=ROWS[:1], blocks=[Still(loss=0.5), Still(loss=0.25)])

    first, second, epoch = console.file.getvalue().splitlines()
    assert re.fullmatch(r"1/1  training 1/10  [\d,]+ batches/s  loss 0\.500", first)
    assert "training 2/10" in second
    assert "validation loss 1.250" in epoch
