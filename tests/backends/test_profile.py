"""Profiles: recorded while training, with the names of processors, in files that tools open."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import keras
import pytest

from experimentator import build_experiment, ops
from experimentator.callbacks.order import CallbackError
from experimentator.callbacks.profile import Profile
from experimentator.cli import main
from tests.frameworks import ON_JAX, ON_TORCH
from tests.test_experiment import config


def events(folder):
    with gzip.open(folder / "trace.json.gz", "rt") as file:
        return json.load(file)["traceEvents"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_operations_carry_the_processor_and_the_pass(tmp_path, epochs):
    exp = build_experiment(config(callbacks=[Profile(tmp_path)], steps_per_call=1))
    exp.train(epochs)

    told = [event["args"] for event in events(tmp_path) if "processor" in event.get("args", {})]
    owned = {(one["processor"], one["pass"]) for one in told}
    assert {("Model", "forward"), ("Model", "backward"), ("SoftmaxCrossEntropy", "forward")} <= owned
    assert ON_TORCH or list(tmp_path.rglob("*.xplane.pb"))
    if ON_TORCH:  # what the optimizer does is no processor's
        assert "(update)" in {event["name"] for event in events(tmp_path)}
        update = [event for event in events(tmp_path) if "foreach" in event["name"]]
        assert update
        assert not [event for event in update if "processor" in event.get("args", {})]


def test_the_backward_pass_of_a_processor_is_not_given_to_its_neighbours(tmp_path):
    first, second = (
        ops.Model(keras.layers.Dense(8), inputs=source, outputs=output, node=node)
        for source, output, node in (("batch_input", "batch_wide", "First"), ("batch_wide", "batch_logits", "Second"))
    )
    chain = [first, second, ops.SoftmaxCrossEntropy("batch_logits", "batch_target", node="Loss")]
    build_experiment(config(chunk_processors=chain, callbacks=[Profile(tmp_path)], steps_per_call=1)).train(2)

    told = [event["args"] for event in events(tmp_path) if "processor" in event.get("args", {})]
    backward = {one["processor"] for one in told if one["pass"] == "backward"}
    assert backward == {"First", "Second", "Loss"}


@pytest.mark.skipif(not ON_JAX, reason="JAX tells names by the texts of programs")
def test_what_xla_made_without_a_name_has_that_of_what_it_is_made_of():
    from experimentator.backends.jax.profile import _instructions

    told = 'metadata={op_name="jit(TRAIN)/transpose(jvp(Model))/conv/conv" stack_frame_id=2}'
    text = f"""HloModule jit_TRAIN, is_scheduled=true

%fused.1 (p: f32[2]) -> f32[2] {{
  %p = f32[2]{{0}} parameter(0)
  %add.1 = f32[2]{{0}} add(%p, %p), metadata={{op_name="jit(TRAIN)/jvp(Model)/conv/add"}}
  ROOT %copy.1 = f32[2]{{0}} copy(%add.1)
}}

ENTRY %main (a: f32[2]) -> f32[2] {{
  %a = f32[2]{{0}} parameter(0)
  %fusion.1 = f32[2]{{0}} fusion(%a), kind=kLoop, calls=%fused.1
  %conv.1 = f32[2]{{0}} custom-call(%a), {told}
  ROOT %fusion.2 = f32[2]{{0}} fusion(%conv.1, %fusion.1), kind=kCustom, calls=%other
}}
"""
    names = {name: path for (_, name), path in _instructions(text)}
    assert names["fusion.1"] == "jit(TRAIN)/jvp(Model)/conv/add"
    assert names["fusion.2"] == names["conv.1"]
    assert "a" not in names


def test_events_have_what_the_trace_format_asks_for(tmp_path):
    build_experiment(config(callbacks=[Profile(tmp_path)])).train(2)

    complete = [event for event in events(tmp_path) if event["ph"] == "X"]
    assert complete
    assert all(event["dur"] >= 0 and {"name", "pid", "tid", "ts"} <= event.keys() for event in complete)
    assert all(0 < event[place] < 1 << 31 for event in complete for place in ("pid", "tid"))


def test_a_thread_has_one_name_and_its_events_nest(tmp_path):
    build_experiment(config(callbacks=[Profile(tmp_path)])).train(2)

    named = [event["tid"] for event in events(tmp_path) if event["name"] == "thread_name"]
    assert len(named) == len(set(named)) > 1
    assert {event["tid"] for event in events(tmp_path) if event["ph"] == "X"} <= set(named)


def test_training_is_the_same_with_a_profile(tmp_path):
    plain = build_experiment(config()).train(2)[-1]["training_loss"]

    assert build_experiment(config(callbacks=[Profile(tmp_path)])).train(2)[-1]["training_loss"] == plain


def test_a_training_too_short_to_profile_says_so(tmp_path, caplog):
    build_experiment(config(callbacks=[Profile(tmp_path)])).train(1)

    assert ("Nothing was profiled" in caplog.text) == (not list(tmp_path.iterdir()))


def test_a_folder_that_cannot_be_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("")
    exp = build_experiment(config(callbacks=[Profile(tmp_path / "file" / "profile")]))

    with pytest.raises(CallbackError, match=r"cannot be written to .*file/profile.\nSeen: Not a directory"):
        exp.train(2)
    assert exp.epoch == 0


def test_a_run_leaves_its_profile_in_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digits = str(Path(__file__).parents[1] / "configs" / "digits.py")

    assert main(["run", digits, "--epochs", "2", "--quiet", "--profile"]) == 0
    assert "profile" in capsys.readouterr().out
    assert events(next((tmp_path / "runs").glob("*/latest/profile")))
