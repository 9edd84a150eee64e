"""The `bench` command and its arithmetic, on a training without a framework."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import experimentator.callbacks
from experimentator import (
    AsyncExperiment,
    BaseExperiment,
    CallbackedExperiment,
    DataAugmentationDataset,
    Mode,
    Subset,
    build_experiment,
    chunk_processor,
)
from experimentator.backends.numpy import NumpyBackend
from experimentator.bench.comparison import SURE, answer, compared
from experimentator.bench.costs import Cost, Costs, costs_of, sample_of
from experimentator.bench.curve import curve_svg, sweep_text
from experimentator.bench.findings import Seen
from experimentator.bench.ledger import KINDS, Epoch
from experimentator.bench.spread import interval, p_value, spread_of
from experimentator.bench.supply import supply
from experimentator.bench.trainer import Trainer, Work, varies
from experimentator.bench.verdict import verdict
from experimentator.callbacks.journal import StateLogger
from experimentator.cli import main
from experimentator.commands.help import BENCH_HELP
from experimentator.graph import Graph
from experimentator.graph.palette import colors
from experimentator.loading.workers import Workers
from experimentator.pace import Pace
from tests.pictures import needs_pictures

LIGHT = str(Path(__file__).parent / "configs" / "light.py")
QUICK = ["--seconds", "0.5"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# The command


def test_a_training_is_measured_and_nothing_is_written(tmp_path, capsys, caplog):
    assert main(["bench", LIGHT, *QUICK, "--set", "output_folder=runs"]) == 0

    out, err = capsys.readouterr()
    assert "steps/s" in out
    assert "waiting for data" in out
    assert "square_error" in out
    assert "verdict: " in out
    assert "in turn" in err
    assert list(tmp_path.iterdir()) == []
    assert "Training ends" not in caplog.text


def test_what_every_part_of_a_graph_warns_of_is_said_once(tmp_path, caplog):
    warns = "import logging\nchunk_processors.insert(0, lambda chunk: logging.warning('as the others do'))\n"
    (tmp_path / "warning.py").write_text(Path(LIGHT).read_text("utf-8") + warns, "utf-8")

    assert main(["bench", "warning.py", *QUICK]) == 0
    assert caplog.text.count("as the others do") == 1


def test_where_the_system_tells_no_memory_the_rest_is_told(monkeypatch, capsys):
    monkeypatch.setattr("experimentator.bench.report.sys", SimpleNamespace(platform="win32"))
    monkeypatch.setitem(sys.modules, "resource", None)

    assert main(["bench", LIGHT, *QUICK]) == 0
    out = capsys.readouterr().out
    assert "of memory" not in out
    assert "verdict: " in out


def test_the_report_is_json_and_its_parts_add_up(capsys):
    assert main(["bench", LIGHT, *QUICK, "--epochs", "3", "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    whole, costs = report["time"]["whole"], report["costs"]
    assert set(whole) == set(KINDS)
    assert not [name for name in report if name not in BENCH_HELP]
    assert report["epochs"] == 3
    assert report["samples_per_second"]["median"] == pytest.approx(4 * report["steps_per_second"]["median"], rel=0.2)
    added = costs["rows"] + sum(cost["forward"] + cost["backward"] for cost in costs["processors"])
    assert added == pytest.approx(costs["step"])


def test_a_sweep_has_a_row_for_each_value_and_a_curve(tmp_path, capsys):
    assert main(["bench", LIGHT, *QUICK, "--sweep", "batch_size=1,2,4", "-o", "curve.svg"]) == 0

    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert rows == ["1", "2", "4"]
    assert len(ElementTree.parse(tmp_path / "curve.svg").findall("{*}circle")) == 3


def test_a_sweep_tells_of_values_that_cannot_be_trained_with_and_measures_the_others(tmp_path, capsys):
    refuses = (
        "\n\ndef few(chunk):\n    if len(chunk['batch_input']) > 2:\n        raise MemoryError('no room\\nat all')\n"
    )
    text = f"{Path(LIGHT).read_text('utf-8')}{refuses}\n\nchunk_processors.insert(0, few)\n"
    (tmp_path / "task.py").write_text(text, "utf-8")

    assert main(["bench", "task.py", *QUICK, "--sweep", "batch_size=1,2,4", "-o", "curve.svg"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[2:4]] == ["1", "2"]
    assert out[-1] == "batch_size=4 fails: MemoryError: no room"
    assert len(ElementTree.parse(tmp_path / "curve.svg").findall("{*}circle")) == 2

    assert main(["bench", "task.py", *QUICK, "--sweep", "batch_size=4,8"]) == 1
    assert "no room" in capsys.readouterr().err


def test_the_report_of_a_sweep_over_values_that_json_lacks_is_json(capsys):
    assert main(["bench", LIGHT, *QUICK, "--sweep", "rate=[0.1, {1}, 1e999]", "--json"]) == 0

    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [one["value"] for one in (*report["points"], *report["failed"])] == [0.1, "{1}", None]


def test_a_sweep_measures_what_can_be_built_and_says_how_large_the_batches_are(capsys):
    assert main(["bench", LIGHT, *QUICK, "--sweep", "batch_size=0,4,4096"]) == 0

    out = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in out[2:4]] == ["4", "4096 (an epoch has only 8)"]
    assert out[-1] == "batch_size=0 fails: ConfigError: batch_size=0 cannot be used."

    assert main(["bench", LIGHT, *QUICK, "--sweep", "batch_size=0,-1"]) == 2
    assert "In the training with batch_size=-1." in capsys.readouterr().err


def test_a_comparison_says_which_of_the_two_fails(tmp_path, capsys):
    (tmp_path / "task.py").write_text(f"{Path(LIGHT).read_text('utf-8')}\nsubsets = []\n", "utf-8")

    assert main(["bench", LIGHT, *QUICK, "--compare", "task.py"]) == 2

    assert "In the training of task.py." in capsys.readouterr().err


def test_two_configurations_are_compared_in_turn(tmp_path, capsys):
    main([LIGHT, "--quiet", "--epochs", "1", "--set", "batch_size=2", "--experiment-id", "small"])
    capsys.readouterr()

    assert main(["bench", LIGHT, *QUICK, "--compare", "runs/light/small", "--json", "-o", "report.txt"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert (report["first"]["batch_size"], report["second"]["batch_size"]) == (4, 2)
    assert report["rounds"] >= 8
    assert "p = " in Path("report.txt").read_text()
    assert [path.name for path in Path("runs/light").iterdir() if not path.is_symlink()] == ["small"]


@needs_pictures
def test_the_costs_stand_on_the_diagram(capsys):
    assert main(["graph", LIGHT, "--cost", "-o", "graph.svg"]) == 0
    assert main(["graph", LIGHT, "--cost"]) == 0

    assert "a step of 4 takes" in capsys.readouterr().out
    assert colors("light")["heat 4"] in Path("graph.svg").read_text("utf-8")


@pytest.mark.parametrize(
    "words, said",
    [
        (["bench"], "required: CONFIG"),
        (["bench", "nowhere.py"], "no configuration file 'nowhere.py'"),
        (["bench", LIGHT, "--seconds", "-1"], "no number of seconds"),
        (["bench", LIGHT, "--sweep", "batch_size=32"], "names fewer than two values to sweep"),
        (["bench", LIGHT, "--sweep", "batch_sise=32,64"], "Did you mean 'batch_size'?"),
        (["bench", LIGHT, "--sweep", "rate=1,2", "--compare", LIGHT], "not allowed with"),
        (["bench", LIGHT, "--sweep", "rate=1,2", "--set", "rate=3"], "'rate' is both swept and a single value"),
        (["bench", LIGHT, "--sweep", "seed=1,2", "--seed", "3"], "'seed' is both swept and a single value"),
        (["bench", LIGHT, "-o", "report.pdf"], "names no known format of a report"),
        (["bench", LIGHT, "--compare", LIGHT, "-o", "report.svg"], "names no known format of a report"),
        (["bench", LIGHT, "--against", "torch"], "invalid choice"),
        (["bench", LIGHT, *QUICK, "--against", "keras"], "cannot be compared with Keras' fit"),
        (["bench", LIGHT, "--set", "subsets=[]"], "nothing to train on"),
        (["graph", LIGHT, "--cost", "--diff", "eval"], "--cost measures a configuration"),
        (["graph", ".", "--cost"], "--cost measures a configuration"),
    ],
)
def test_a_mistake_of_use_exits_2_with_one_message(words, said, capsys):
    assert main(words) == 2

    out, err = capsys.readouterr()
    assert said in err
    assert "Traceback" not in out + err


def test_a_folder_that_is_no_run_is_told(capsys):
    assert main(["bench", "."]) == 5

    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.parametrize("trouble, status", [("nan", 4), ("dataset", 3), ("processor", 1), ("callback", 1)])
def test_what_ends_a_training_ends_its_measurement(trouble, status, capsys):
    assert main(["bench", LIGHT, *QUICK, "--set", f"trouble={trouble}"]) == status

    assert capsys.readouterr().out == ""


def resident(hands, whole, *, evaluating=MappingProxyType({}), batches=16, steps=16, eager=False):
    subset = SimpleNamespace(is_training=True)
    program = SimpleNamespace(feeds={id(subset): SimpleNamespace(own=SimpleNamespace(resident=True))})
    compilers = {"graph": False, "xla": True, "xla-step": "step"}
    backend = SimpleNamespace(peak_memory=lambda: None, compilers=compilers)
    exp = SimpleNamespace(subsets=[subset], program=program, backend=backend, call_limit=lambda mode: None, eager=eager)
    exp.precision = exp.steps_per_call = None
    compiling, block = {"graph": 0.1, "xla": 1.0}, SimpleNamespace(index=np.zeros((batches, 32)))
    return Seen(exp, whole, steps, 1, "graph", hands, compiling, {}, ("Model", 0.75), block, evaluating)


@pytest.mark.parametrize(
    "hands, said",
    [
        ({"graph": 1e-4, "xla": 1e-5}, "jit_compile=True makes it quicker, which pays only in a longer training"),
        ({"graph": 1e-4, "xla": 9e-5}, "no setting would make it much quicker"),
    ],
)
def test_a_compiler_that_would_pay_in_a_longer_training_is_named(hands, said):
    seen = resident(hands, {"device": 0.02, "compile": 1.0}, steps=80)

    assert [said in finding.words for finding in verdict(seen)] == [False, True]
    assert "make that smaller" not in verdict(seen)[1].words  # the step hardly counts here


def test_short_epochs_cost_all_that_begins_with_each():
    (finding,) = verdict(resident({"graph": 1e-6}, {"device": 5e-4, "library": 3e-4, "data": 2e-4}))

    assert "repetitions=10" in finding.words
    assert finding.gain == pytest.approx(10, rel=0.2)


def test_what_compiles_in_every_epoch_counts_in_each_and_is_named():
    trainer = Trainer(counted(), 20)
    trainer.warm_up(0.1)
    epoch = Epoch({"compile": 1.0, "device": 1.0}, 8, 64, {}, {}, has_traced=True)
    trainer.round(0.1)
    assert not trainer.recompiles
    trainer.start, trainer.rounds, trainer.counted = [epoch], [], 0
    trainer._train = lambda *_, **__: [epoch, epoch]

    for _ in range(3):
        trainer.round(0.1)

    assert trainer.recompiles
    assert trainer.whole()["compile"] == pytest.approx(20)
    seen = replace(resident({"graph": 1e-3}, {"device": 1.0, "compile": 9.0}), recompiles=True, epochs=10)
    assert [finding.kind for finding in verdict(seen)] == ["recompile"]
    assert "again and again" in verdict(seen)[0].words


def test_evaluation_gains_as_training_does_where_eager_is_left_out():
    seen = resident({"graph": 1e-3}, {"device": 6.4}, evaluating={"device": 4.8}, eager=True)

    assert verdict(seen)[0].gain == pytest.approx(6.4 / (0.016 * 4 + 0.1), rel=0.01)


@pytest.mark.parametrize(
    "busy, seconds, feature, words, gain",
    [
        (0.1, 9.0, AsyncExperiment, "set workers=8, since reading an item is waiting", 4.0),
        (0.1, 9.0, BaseExperiment, "add AsyncExperiment to experiment_type, and set workers=8, since reading", 4.0),
        (1.0, 9.0, AsyncExperiment, "set workers='2 processes'", 2.0),
        (1.0, 0.01, AsyncExperiment, "make the items cheaper", 10.0),  # than to bring them from another process
        (1.9, 9.0, AsyncExperiment, "make the items cheaper", 10.0),
    ],
)
def test_items_that_are_others_each_time_are_read_otherwise_and_never_kept(
    busy, seconds, feature, words, gain, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    exp = counted(feature, residency="stream")
    exp.train(1)
    feeds = exp.program.feeds[id(exp.subsets[0])].own
    feeds.workers = Workers(2)
    seen = Seen(exp, {"data": seconds}, 8, 10, "graph", {}, {}, {}, ("", 0.0), exp, {}, busy=busy, varies=True)
    exp.columns = {"batch_input": np.full(8, 0.5)}

    (finding,) = supply(seen)

    assert words in finding.words
    assert "residency" not in finding.words
    assert finding.gain == pytest.approx(gain, rel=0.05)


def test_more_threads_are_advised_only_with_a_file_for_each_item(tmp_path):
    exp = counted(AsyncExperiment, residency="stream")
    exp.train(1)
    seen = Seen(exp, {"data": 9.0}, 8, 10, "graph", {}, {}, {}, ("", 0.0), exp, {}, busy=0.1, varies=True)
    exp.columns = {"batch_input": np.full(8, 0.5)}

    with open(tmp_path / "table", "wb+") as file:
        exp.subsets[0].dataset.file = file
        (finding,) = supply(seen)
    assert f"open {type(exp.subsets[0].dataset).__name__}.file anew for each item; set workers=8" in finding.words


@pytest.mark.parametrize("workers, words, gain", [(4, "set workers=8", 2.0), (8, "make the items cheaper", 10.0)])
def test_no_more_workers_are_advised_than_a_pass_has_batches(workers, words, gain):
    exp = counted(AsyncExperiment, residency="stream")
    exp.train(1)
    exp.program.feeds[id(exp.subsets[0])].own.workers = Workers(workers)
    seen = Seen(exp, {"data": 9.0}, 8, 10, "graph", {}, {}, {}, ("", 0.0), exp, {}, busy=0.1, varies=True)
    exp.columns = {"batch_input": np.full(8, 0.5)}

    (finding,) = supply(seen)

    assert words in finding.words
    assert finding.gain == pytest.approx(gain, rel=0.05)


ONLY_LINUX = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="only Linux says how long threads wait for a core"
)


SPIN = "import time\nend = time.perf_counter() + 0.3\nwhile time.perf_counter() < end: pass"


@ONLY_LINUX
def test_work_of_processes_counts():
    work = Work()
    before = work()

    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", f"{SPIN}\nprint(flush=True)\ninput()"], **pipes) as other:
        other.stdout.readline()
        worked = work() - before
        other.communicate(b"\n")

    assert worked > 0.25
    assert work() - before >= worked


@ONLY_LINUX
def test_threads_that_have_ended_count_as_they_were_seen_last():
    work, seen, over = Work(), threading.Event(), threading.Event()

    def spin():
        exec(SPIN, {})
        seen.set()
        over.wait()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    seen.wait()
    looked = work()
    over.set()
    thread.join()

    assert work() >= looked


@pytest.mark.parametrize("longest", [0.0, 9.0])
def test_what_an_epoch_needs_once_is_not_counted_more_often_where_it_is_cut(longest):
    trainer = Trainer(counted(steps_per_call=1, eval_epochs=0), 10)
    trainer.ledger.account.clock = count().__next__  # a second at each look
    fire = trainer.exp.fire

    def slow(event, **state):
        fire(event, **state)
        trainer.ledger.account.move(-800.0 * (event == "cycle_end"), "callbacks", "nothing")

    trainer.exp.fire = slow
    trainer.rounds = trainer._train(0.0, cut=longest)

    assert trainer.pace()["callbacks"] == pytest.approx(100, abs=9)


def test_callbacks_count_as_often_as_the_training_calls_them():
    trainer = Trainer(counted(), 20)
    trainer.warm_up(0.1)
    trainer.round(0.0)
    ledger = trainer.ledger
    assert ledger.fired["train_end"] >= 2
    assert ledger.ending > 0
    times = {
        "train_end": ledger.fired["train_end"],
        "epoch_end": len(ledger.epochs),
        "batch_end": 8 * len(ledger.epochs),
    }
    ledger.by_callback.update({f"One.on_{event}": 0.5 * count for event, count in times.items()})

    before = trainer.whole()["callbacks"]
    ledger.ending += 3.0

    assert trainer.callbacks() == pytest.approx(
        {"One.on_train_end": 0.5, "One.on_epoch_end": 10.0, "One.on_batch_end": 80.0}
    )
    assert trainer.whole()["callbacks"] == pytest.approx(before + 3.0)


@ONLY_LINUX
def test_work_that_waits_for_a_core_counts_as_work():
    cores = os.sched_getaffinity(0)
    only = {min(cores)}
    code = f"import os; os.sched_setaffinity(0, {only}); print(flush=True)\nwhile True: pass"
    trainer = Trainer(counted(BaseExperiment), epochs=2)
    trainer.warm_up(0.1)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            os.sched_setaffinity(0, only)
            trainer.round(0.5)
        finally:
            os.sched_setaffinity(0, cores)
            other.kill()

    assert trainer.worked / trainer.wall > 0.8  # of which it had the core about half of the time


@pytest.mark.parametrize(
    "evaluations, said, gain", [(10, "set eval_epochs=5", 3.57), (1, "which takes place once: give it fewer keys", 1.0)]
)
def test_a_long_evaluation_is_named_and_made_rarer_where_that_is_possible(evaluations, said, gain):
    exp = counted()
    exp.train(1)
    exp.columns, exp.index = {"batch_input": np.full(8, 0.5)}, np.zeros((8, 8))
    seen = Seen(exp, {"device": 10.0}, 8, 10, "eager", {}, {}, {}, ("", 0.0), exp, {"device": 9.0}, evaluations)

    (finding,) = verdict(seen)

    assert finding.words.startswith("90 % of the time is evaluation")
    assert said in finding.words
    assert finding.gain == pytest.approx(gain, abs=0.02)


def test_items_that_an_epoch_draws_are_told_from_those_that_stay():
    drawn = DataAugmentationDataset({"input": np.arange(64.0)}, [lambda key, item, random: {"input": random.uniform()}])
    kept = DataAugmentationDataset({"input": np.arange(64.0)}, [lambda key, item: {"input": item["input"] + 1}])

    assert [varies(counted(subsets=[Subset("training", Mode.TRAIN, one)])) for one in (drawn, kept)] == [True, False]


def test_missing_values_and_texts_stay_as_they_are():
    items = [{"input": np.float32(place), "target": np.nan, "name": "a"} for place in range(64)]
    kept = DataAugmentationDataset(items, [lambda key, item: item])

    assert not varies(counted(subsets=[Subset("training", Mode.TRAIN, kept)]))


@pytest.mark.parametrize(
    "values, advice",
    [
        (np.arange(200, dtype="int32"), "as uint8, a quarter of the bytes, if all values fit, as those seen do"),
        (np.arange(200, dtype="int32"), 'and cast it on the device: ops.Cast("batch_input", "int32") first'),
        (np.arange(200, dtype="float32"), 'ops.Cast("batch_input", "float32") first'),
        (np.arange(300, dtype="int32"), None),
        (np.array([0, 300]), "as int32, half of the bytes"),
        (np.array([0, 2**40]), None),
        (np.array([np.nan, 0.5]), "as float32, half of the bytes"),
        (np.array([0.5, 1e300]), None),
    ],
)
def test_a_smaller_dtype_is_advised_where_what_was_seen_fits(values, advice):
    subset = Subset("training", Mode.TRAIN, {"input": np.resize(np.nan_to_num(values), 512)})
    exp = counted(residency="host", batch_size=256, subsets=[subset])
    exp.train(1)
    block = SimpleNamespace(columns={"batch_input": values}, index=np.zeros((2, 256)))
    seen = Seen(exp, {"transfer": 9.0}, 2, 1, "graph", {}, {}, {}, ("", 0.0), block, {})

    (finding,) = supply(seen)

    assert advice in finding.words if advice else "let the dataset give" not in finding.words


def test_a_subset_that_computes_its_epoch_has_it_again_once_that_is_known():
    class Late(Subset):
        epoch = property(lambda self: self.since + 5, lambda self, epoch: setattr(self, "since", epoch - 5))

    kept = DataAugmentationDataset({"input": np.arange(64.0)}, [lambda key, item: item])
    exp = counted(subsets=[Late("training", Mode.TRAIN, kept)])

    assert not varies(exp)
    assert exp.subset("training").epoch == 0


def test_evaluation_that_is_cut_counts_as_if_it_had_gone_on():
    trainer = Trainer(counted(steps_per_call=1), 1)

    trainer._train(0.0, cut=0.0)

    (epoch,) = trainer.ledger.epochs
    assert sum(epoch.evaluation.values()) == pytest.approx(8 * sum(epoch.evaluating.values()))


@pytest.mark.parametrize("eval_epochs, share", [(None, 1), (2, 0.5), (0, 0)])
def test_evaluation_counts_as_often_as_the_training_would_evaluate(eval_epochs, share):
    trainer = Trainer(counted(eval_epochs=eval_epochs), 4)
    trainer.warm_up(0.1)
    trainer.round(0.1)

    once = sum(trainer.rounds[0].evaluation.values()) / max(1, trainer.rounds[0].evaluations)
    assert sum(trainer.evaluating().values()) == pytest.approx(4 * share * once)


@pytest.mark.parametrize("faster, is_told", [(0.97, False), (1.02, False), (1.1, True), (0.9, True)])
def test_only_a_clear_difference_of_more_than_the_margin_is_told(faster, is_told, monkeypatch):
    noise = iter(np.random.default_rng(2).normal(1, 0.02, 1000))

    def rounds(names, build, *_):
        trainers = {place: Trainer(*build(place)) for place in range(2)}
        for trainer, pace in zip(trainers.values(), (faster, 1.0), strict=True):
            trainer.rounds = [Epoch({"device": next(noise) / pace}, 8, 64, {}, {}) for _ in range(12)]
        return trainers

    monkeypatch.setattr("experimentator.bench.comparison.in_turn", rounds)
    monkeypatch.setattr("experimentator.bench.comparison.described", lambda trainer: {})

    report = compared(("a.py", "b.py"), lambda name: (counted(), 1), seconds=1, told=lambda _: None)

    assert (report["p_value"] <= SURE) == is_told
    assert ("No difference" in answer(report)) != is_told


# The account


def counted(*features, **changes):
    total = chunk_processor(inputs=["batch_input"], outputs=["loss"])(lambda batch_input: np.mean(batch_input))

    class Evaluating(NumpyBackend):
        def compile(self, graph, specs, optimizer=None, **options):
            return super().compile(graph, specs)

    class Experiment(BaseExperiment):
        backend = property(lambda self: vars(self).setdefault("_backend", Evaluating()))

    class Rate:
        learning_rate = 0.1

    items = {"input": np.arange(64.0)}
    return build_experiment(
        {
            "experiment_type": [BaseExperiment, CallbackedExperiment, *features, Experiment],
            "subsets": [Subset("training", Mode.TRAIN, items), Subset("validation", Mode.EVAL, items)],
            "chunk_processors": [total],
            "optimizer": Rate(),
            "batch_size": 8,
            **changes,
        }
    )


def test_a_training_is_looked_at_now_and_then_alone_as_each_look_takes_its_time(monkeypatch):
    looks = []
    monkeypatch.setattr(Work, "__call__", lambda work: looks.append(vars(work).update(looked=time.perf_counter())))
    work = Work()

    end = time.perf_counter() + 0.12
    while time.perf_counter() < end:
        work.glance()

    assert 1 <= len(looks) <= 3


def test_the_kinds_of_a_round_add_up_to_the_time_that_passed():
    trainer = Trainer(counted(), 2)
    trainer.warm_up(0.1)

    parts = []
    for _ in range(3):  # a busy machine takes the time between two epochs
        start = time.perf_counter()
        one = trainer.round(0.2)
        passed = time.perf_counter() - start
        assert 0.2 <= one.seconds <= passed
        parts.append(one.seconds / passed)

    assert max(parts) >= 0.5
    assert min(one.spent.values()) >= 0
    assert 0 < sum(one.evaluating.values()) < one.seconds


def test_a_long_epoch_is_cut_and_its_first_block_is_no_measure():
    trainer = Trainer(counted(steps_per_call=1), 1)
    trainer.ledger.longest = 0.0

    trainer._train(0.0, cut=0.0)

    (epoch,) = trainer.ledger.epochs
    assert not epoch.is_whole
    assert epoch.batches == 1


def test_a_call_that_traces_is_compilation_though_its_pace_is_taken_from_it():
    ledger = Trainer(counted(), 1).ledger
    ledger.account.clock = count().__next__  # a second at each look
    runner = SimpleNamespace(pace=Pace(8, fixed=None), step=SimpleNamespace(traces=1))
    runner.pace.saw(1, 1.0)  # the first call, which counts for no pace

    def run(block):
        runner.step.traces += 1
        runner.pace.saw(1, 1.0)

    ledger.ran(runner, run, SimpleNamespace(index=np.zeros((1, 32))))
    assert (ledger.account.spent["compile"], ledger.account.spent["device"]) == (1.0, 0.0)


def test_what_a_callback_compiles_to_predict_is_compilation():
    ledger, predictor = Trainer(counted(), 1).ledger, SimpleNamespace(traces=0)
    ledger.account.clock = count().__next__  # a second at each look

    def predict(traces):
        predictor.traces += traces

    with ledger.account.spending("callbacks"):
        ledger.predicted(predictor, predict, 1)
        assert ledger.account.spent["compile"] == 1.0
        ledger.predicted(predictor, predict, 0)
    assert ledger.account.spent["compile"] == 1.0


def test_waiting_while_another_thread_places_data_is_transfer():
    ledger = Trainer(counted(), 1).ledger
    block = SimpleNamespace(index=np.zeros((1, 8)))
    ledger.account.close()
    start = time.perf_counter()
    with ledger.account.spending("data"):
        placing = threading.Thread(target=ledger.placed, args=(lambda columns: sum(range(300_000)), {}))
        placing.start()
        placing.join()
    copied = sum(end - begin for begin, end in ledger.copies)

    ledger.took(block, start)

    spent = ledger.account.close()
    assert spent["transfer"] == pytest.approx(copied)
    assert spent["data"] >= 0


def test_every_module_of_callbacks_that_writes_says_so():
    folder = Path(experimentator.callbacks.__file__).parent
    texts = {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}
    writing = {
        name
        for name, text in texts.items()
        if re.search(r"write_(atomically|json)\(|add_lines\(|open\(|\.save\(|profiled\(", text)
    }

    assert "weights.py" in writing
    assert not [name for name in writing if "leaves_files = True" not in texts[name]]


def test_items_of_many_lengths_are_measured_in_the_largest_and_compared_as_they_are(capsys, tmp_path):
    config = """
import keras, numpy as np
from experimentator import Mode, Subset, chunk_processor
sizes = [2, 8]
items = [{"n": np.ones(1 + key % 8, "float32")} for key in range(64)]
subsets = [Subset("training", Mode.TRAIN, items, buckets={"n": sizes})]
layer = keras.layers.Dense(1)
loss = chunk_processor(inputs=["batch_n"], outputs=["loss"])
chunk_processors = [loss(lambda n: keras.ops.mean(layer(n[:, :, None])))]
optimizer = keras.optimizers.SGD(0.01)
batch_size = 4
jit_compile = True
"""
    (tmp_path / "task.py").write_text(config)
    assert main(["bench", str(tmp_path / "task.py"), *QUICK, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["padded"] == {"training": "n 8"}
    assert (report["steps"], report["compiler"]) == (16, "xla")

    assert main(["bench", str(tmp_path / "task.py"), *QUICK, "--json", "--sweep", "sizes=[8],[2,8]"]) == 0
    assert [point["value"] for point in json.loads(capsys.readouterr().out)["points"]] == [[8], [2, 8]]


def test_callbacks_that_leave_files_are_left_out():
    exp = counted(callbacks=[StateLogger("state.jsonl")])

    trainer = Trainer(exp, 1)
    trainer.warm_up(0.1)

    assert trainer.left_out == ["StateLogger"]
    assert not Path("state.jsonl").exists()


def test_callbacks_that_a_subclass_adds_are_called_once():
    class Counts:
        epochs = 0

        def on_epoch_end(self, **_):
            self.epochs += 1

    counts = Counts()

    class Adding(BaseExperiment):
        @cached_property
        def callbacks(self):
            return [*super().callbacks, counts]

    exp = counted()
    exp = build_experiment({**exp.cfg, "experiment_type": [*exp.cfg["experiment_type"], Adding]})
    trainer = Trainer(exp, 1)

    trainer.warm_up(0.01)

    assert counts.epochs == len(trainer.start)


def test_the_dear_processor_is_told_from_the_cheap_ones():
    cheap = chunk_processor(inputs=["batch_input"], outputs=["x"], node="cheap")(lambda x: x + 1)
    dear = chunk_processor(inputs=["x"], outputs=["loss"], node="dear")(
        lambda x: sum(np.sin(x).sum() for _ in range(300))
    )
    exp = counted(
        subsets=[Subset("training", Mode.TRAIN, {"input": np.ones((64, 100))})],
    )
    graph = Graph([cheap, dear], provided={"batch_input"}, mode=Mode.TRAIN).select("loss")

    costs = costs_of(exp, graph, sample_of(exp, graph), compiler="graph", seconds=0.5)

    first, second = costs.processors
    assert second.is_sure
    assert second.seconds > 0.8 * costs.step
    assert costs.by_name() == {"cheap": first.seconds if first.is_sure else 0.0, "dear": second.seconds}


def test_a_cost_that_noise_hides_is_not_named_the_dearest():
    spread = spread_of([2.0, 3.0])
    hidden, sure = Cost(("critic",), 1.0, 2.0, spread, False), Cost(("maker",), 1.0, 1.0, spread, True)
    costs = Costs("TRAIN", "graph", 64, 10.0, 0.0, (hidden, sure), 5)

    assert costs.dearest == ("maker", 0.2)
    assert replace(costs, processors=(hidden,)).dearest == ("", 0.0)


def test_costs_are_those_of_what_the_graph_reads_of_items_that_are_there():
    """Some are left out, and what nobody reads is a number in the first item alone."""
    items = [{"input": float(n), "note": None if n else 1} if n % 3 != 1 else None for n in range(9)]
    exp = counted(subsets=[Subset("training", Mode.TRAIN, items)], batch_size=4)
    graph = Graph([], provided={"batch_input"}, mode=Mode.TRAIN).select("batch_input")

    columns, index = sample_of(exp, graph)

    assert {name: len(values) for name, values in columns.items()} == {"batch_input": 6}
    assert sorted(index.ravel().tolist()) == [0, 0, 1, 1, 2, 3, 4, 5]


# The arithmetic


@given(st.lists(st.floats(0.1, 10.0), min_size=6, max_size=20))
def test_the_interval_holds_the_median_of_what_was_seen(values):
    low, high = interval(values)

    assert min(values) <= low <= spread_of(values).median <= high <= max(values)


@given(st.lists(st.floats(-5.0, 5.0), min_size=2, max_size=10))
def test_the_p_value_does_not_care_which_of_the_two_comes_first(values):
    assert p_value(values) == pytest.approx(p_value([-value for value in values]))
    assert 2 / 2 ** len(values) <= p_value(values) <= 1


def test_a_shift_is_seen_and_noise_is_not():
    noise = np.random.default_rng(1).normal(0, 0.1, 30)

    assert p_value(list(noise - noise.mean())) > 0.5
    assert p_value(list(noise + 0.2)) < 0.01
    assert interval(list(noise + 0.2))[0] > 0


def test_a_sweep_says_where_its_best_is_within_the_noise_and_how_it_was_compiled():
    point = {
        "configuration": "a.py",
        "steps": 1,
        "batch_size": 1,
        "device": "CPU",
        "compiler": "graph",
        "place": "here",
    }
    rates = [{"median": m, "low": m - 5, "high": m + 5, "rounds": 9} for m in (100.0, 104.0)]
    points = [
        {**point, "value": v, "steps_per_second": r, "samples_per_second": r}
        for v, r in zip(["a" * 200, "b"], rates, strict=True)
    ]

    assert sweep_text({"name": "kind", "points": points, "failed": []}).endswith(
        "kind=b: most samples a second, within the noise of others."
    )
    drawn = curve_svg({"name": "kind", "points": points})
    assert "kind" in drawn
    assert f">{'a' * 68}...<" in drawn
    points[1]["compiler"] = "xla"
    assert "\nkind=b (with XLA): " in sweep_text({"name": "kind", "points": points, "failed": []})
