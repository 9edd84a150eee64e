"""In which order callbacks act, and what they are handed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps

import pytest
from hypothesis import strategies as st

from experimentator import (
    BaseExperiment,
    Callback,
    CallbackedExperiment,
    CallbackError,
    build_experiment,
    chunk_processor,
)
from experimentator.callbacks.order import Listener, in_order
from tests.stand_ins import law, subsets

mean = chunk_processor(inputs=["batch_input"], outputs=["mean"])(lambda batch_input: batch_input.mean())


def make(name, **attributes):
    return type(name, (), {"init": lambda self, exp: None, **attributes})()


def names(*callbacks):
    return [listener.name for listener in in_order(callbacks)]


def listener(method, event="epoch_end"):
    return Listener(make("Mine", **{f"on_{event}": method}), 0)


# Order


@law(st.permutations("ABCDE"), st.sets(st.tuples(st.sampled_from("ABCDE"), st.sampled_from("ABCDE"))))
def test_every_wish_is_met_and_the_rest_keeps_list_order(order, wishes):
    wishes = {(first, then) for first, then in wishes if first < then}
    after = {name: [first for first, then in wishes if then == name] for name in order}
    found = names(*(make(name, after=after[name]) for name in order))

    assert sorted(found) == sorted(order)
    assert all(found.index(first) < found.index(then) for first, then in wishes)
    assert wishes or found == list(order)


@law(st.permutations("ABC"))
def test_before_says_what_after_says(order):
    wishes = {"A": {"before": ["B"]}, "B": {}, "C": {"after": "B"}}

    assert names(*(make(name, **wishes[name]) for name in order)) == ["A", "B", "C"]


def test_absent_names_are_ignored():
    assert names(make("A", after=["Nobody"]), make("B", before=("Nobody",))) == ["A", "B"]


def test_classes_may_stand_for_their_names():
    class First(Callback):
        pass

    assert names(make("Second", after=[First]), First()) == ["First", "Second"]
    assert names(make("Second", after=First), First()) == ["First", "Second"]


def test_what_comes_rather_after_others_gives_way_to_all_other_wishes():
    averages = make("Averages", rather_after=["First", "Second"])
    first, second = make("First", outputs="one"), make("Second", on_epoch_end=lambda self, score=None: None)
    score = make("Score", after="Averages", outputs="score")

    assert names(averages, second, first) == ["Second", "First", "Averages"]
    assert names(averages, second, score, first) == ["First", "Averages", "Score", "Second"]


def test_several_of_one_class_stay_in_list_order():
    one, two = (type("Same", (Callback,), {"after": ["Same"], "number": n})() for n in range(2))

    assert [listener.callback for listener in in_order([one, two])] == [one, two]


def test_readers_stand_behind_writers_whether_declared_or_asked_for():
    writer = make("Writer", outputs="note")
    declared = make("Declared", inputs=["note"])
    asking = make("Asking", on_epoch_end=lambda self, note=None: None)

    assert names(declared, asking, writer) == ["Writer", "Declared", "Asking"]


def test_one_who_reads_what_it_writes_waits_on_nobody():
    assert names(make("Sum", inputs="total", outputs="total"), make("Other")) == ["Sum", "Other"]


def test_the_last_in_the_list_stays_last_unless_somebody_asks():
    listed = [make("A", after="B"), make("B", after="C"), make("C"), make("Progress")]

    assert names(*listed) == ["C", "B", "A", "Progress"]


def test_a_cycle_is_named():
    with pytest.raises(CallbackError) as caught:
        in_order([make("A", after="C"), make("B", after="A"), make("C", after="B"), make("D")])

    assert str(caught.value) == (
        "Callbacks wait on each other: A -> B -> C -> A.\nTake one off `before`, `after` or `inputs`."
    )


def test_a_class_in_the_list_is_told_from_an_object():
    with pytest.raises(CallbackError, match=r"The callback Callback is a class.\nSeen: Callback.\nWrite Callback\(\)"):
        in_order([Callback])


@pytest.mark.parametrize("callback", [3, "x", lambda **state: None, object(), type("Idle", (), {"on_epoch_end": 3})()])
def test_what_has_no_event_method_is_no_callback(callback):
    with pytest.raises(CallbackError, match=r"is no callback.*\nSeen: \w+.\n(Give it|Make.*) one of on_epoch_begin, "):
        in_order([callback])


@pytest.mark.parametrize("method", [lambda self, epoch, logs: None, lambda self, epoch, logs=None: None])
def test_the_logs_of_keras_are_told_before_anything_runs(method):
    told = r"Mine.on_epoch_end asks for `logs`(.|\n)*Seen: on_epoch_end\(epoch, logs.*\nWrite on_epoch_end\(self, st"
    with pytest.raises(CallbackError, match=told):
        in_order([type("Mine", (), {"on_epoch_end": method})()])


@pytest.mark.parametrize("method", [lambda self, epoch, /: None, lambda self, epoch=3, /, **_: None])
def test_a_parameter_without_a_name_is_told_before_anything_runs(method):
    told = r"^Mine.on_epoch_end has the positional-only parameter 'epoch', (.|\n)*Seen: .*\(epoch.*/.*\nRemove the /"
    with pytest.raises(CallbackError, match=told):
        in_order([make("Mine", on_epoch_end=method)])


@pytest.mark.parametrize("every", [0, -1, True, 1.5, "2"])
def test_a_number_of_batches_that_is_none_is_told_before_anything_runs(every):
    with pytest.raises(CallbackError, match=r"^Mine.every must be a number.*\nSeen: .*\nWrite N to act at every N-th"):
        in_order([make("Mine", every=every)])


@pytest.mark.parametrize(
    "slip, meant",
    [
        ("on_epoch_ends", "on_epoch_end"),
        ("on_epoch_start", "on_epoch_begin"),
        ("on_batchend", "on_batch_end"),
        ("on_train_batch_end", "on_batch_end"),
    ],
)
def test_a_misspelt_event_is_told(slip, meant):
    with pytest.raises(CallbackError, match=rf"Mine.{slip} would never be called(.|\n)*Did you mean.* {meant}\b"):
        in_order([make("Mine", **{slip: lambda self: None}, on_epoch_begin=lambda self: None)])


def test_methods_far_from_every_event_and_plain_attributes_are_the_callbacks_own():
    one = make("Mine", on_fire=lambda self: None, on_epoch_ends=7)

    assert names(one) == ["Mine"]


def test_changing_the_callbacks_of_a_used_experiment_takes_effect():
    counts = [make("Count", seen=[], on_cycle_end=lambda self, cycle_name: self.seen.append(cycle_name)) for _ in "ab"]
    exp = build_experiment(
        {"experiment_type": [BaseExperiment, CallbackedExperiment], "subsets": subsets()[1:], "metrics": ["mean"]}
        | {"chunk_processors": [mean], "callbacks": counts[:1], "hide_progress": True}
    )
    exp.evaluate()
    exp.callbacks = counts[1:]
    exp.evaluate()

    assert [count.seen for count in counts] == [["validation"], ["validation"]]


# Handing over

STATE = {"epoch": 3, "loss": 0.5, "note": "n"}


@pytest.mark.parametrize(
    "event, place",
    [
        ("train_end", ""),
        ("epoch_end", ", epoch 3"),
        ("cycle_end", ", epoch 3, subset 'training'"),
        ("batch_end", ", epoch 3, subset 'training', batch 7"),
    ],
)
def test_an_error_in_a_callback_says_which_and_where(event, place):
    with pytest.raises(ZeroDivisionError) as error:
        listener(lambda self, **_: 1 / 0, event).call(event, {**STATE, "cycle_name": "training", "batch": 7})

    assert error.value.__notes__ == [f"In callback Mine.on_{event}{place}."]


def test_an_error_that_cannot_be_shown_gets_through():
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError

    def fail(self, **_):
        raise Silent

    one = listener(fail, "batch_end")
    one.tensors = lambda: ["logits"]

    with pytest.raises(Silent):
        one.call("batch_end", dict(STATE))


@pytest.mark.parametrize(
    "method, expected",
    [
        (lambda self: {}, {}),
        (lambda self, epoch: {"epoch": epoch}, {"epoch": 3}),
        (lambda self, *, epoch, loss=1: {"epoch": epoch, "loss": loss}, {"epoch": 3, "loss": 0.5}),
        (lambda self, absent=7, **_: {"absent": absent}, {"absent": 7}),
        (lambda self, epoch, **rest: rest, {"loss": 0.5, "note": "n", "state": STATE}),
        (lambda self, **state: state, {**STATE, "state": STATE}),
        (lambda self, state: state, STATE),
        (lambda self, *rest: rest, ()),
    ],
)
def test_a_method_receives_what_it_asks_for(method, expected):
    seen = []
    recorded = wraps(method)(lambda *given, **named: seen.append(method(*given, **named)))
    listener(recorded).call("epoch_end", dict(STATE))

    assert seen == [expected]


def test_what_one_writes_the_next_receives():
    seen = []
    state = dict(STATE)
    listener(lambda self, state: state.update(note="new")).call("epoch_end", state)
    listener(lambda self, note: seen.append(note)).call("epoch_end", state)

    assert seen == ["new"]


@pytest.mark.parametrize(
    "event, name", [("epoch_end", "training_loss"), ("batch_end", "loss"), ("epoch_begin", "epoch")]
)
def test_instead_of_the_logs_of_keras_a_name_is_told_that_the_event_has(event, name):
    with pytest.raises(CallbackError, match=rf"or their names: \(self, {name}, \*\*_\)"):
        listener(lambda self, epoch, logs=None: None, event=event)


@pytest.mark.parametrize(
    "name, written",
    [
        ("exp", "self.exp:"),
        ("experiment", "self.exp:"),
        ("learning_rate", r"self.exp.get_learning_rate\(\):"),
        ("batch_size", "self.exp.batch_size:"),
    ],
)
def test_what_the_experiment_has_is_told_to_be_taken_from_it(name, written):
    scope = {}
    exec(f"def on_epoch_end(self, {name}): pass", scope)
    callback = type("Mine", (Callback,), {"on_epoch_end": scope["on_epoch_end"]})()
    callback.init(build_experiment({}))

    with pytest.raises(CallbackError, match=f"asks for '{name}'(.|\n)*Leave it out, and write {written}"):
        in_order([callback])[0].call("epoch_end", dict(STATE))


def test_a_name_of_batches_is_told_as_those_that_an_epoch_has():
    state = {"epoch": 1, "training_loss": 0.5, "validation_loss": 0.5}

    with pytest.raises(CallbackError, match="Did you mean 'training_loss' or 'validation_loss'"):
        listener(lambda self, loss: None).call("epoch_end", state)


@pytest.mark.parametrize("method", [lambda self, los: None, lambda self, *, los, **_: None])
def test_a_name_that_nobody_provides_is_told_with_those_there_are(method):
    with pytest.raises(CallbackError) as caught:
        listener(method).call("epoch_end", dict(STATE))

    assert str(caught.value) == (
        "Mine.on_epoch_end asks for 'los', which nothing provides.\n"
        "Known here: epoch, loss, note.\n"
        "Did you mean 'loss'? Otherwise: Give the parameter a default, or let a processor or an earlier callback "
        "write the name."
    )


def test_a_failure_of_the_callback_itself_is_not_dressed_up():
    with pytest.raises(ZeroDivisionError):
        listener(lambda self, epoch: epoch / 0).call("epoch_end", dict(STATE))


def test_events_without_a_method_are_not_heard():
    quiet = Listener(Callback(), 0)
    quiet.call("batch_end", {})

    assert not any(quiet.hears(event) for event in ("batch_begin", "batch_end", "epoch_end"))
    assert listener(lambda self: None, "block_end").hears("block_end")
    assert not Listener(make("Odd", on_epoch_end=3), 0).hears("epoch_end")


def test_names_among_the_parameters_at_batch_and_cycle_ends_are_asked_of_the_graph():
    one = make(
        "Watch", inputs=["batch_target"], on_batch_end=lambda self, batch_logits, state, **_: None,
        on_cycle_end=lambda self, accuracy=None: None, on_epoch_end=lambda self, validation_loss: None,
    )  # fmt: skip

    assert Listener(one, 0).inputs == ("batch_target", "batch_logits", "accuracy")


def test_phases_come_before_list_order_and_what_callbacks_say_of_each_other_before_phases():
    last, first, middle = (make(name, phase=name) for name in ("record", "prepare", "act"))
    assert names(make("plain"), last, middle, first) == ["prepare", "plain", "act", "record"]

    listed = [make("D", after="C"), make("C", after="record"), make("B", before="prepare"), make("A"), last, first]
    assert names(*listed) == ["B", "prepare", "A", "record", "C", "D"]


@pytest.mark.parametrize("listed", [[0, 1, 2], [1, 0, 2], [2, 0, 1]])
def test_one_that_acts_after_a_later_phase_takes_no_others_there(listed):
    callbacks = [make("Late", phase="prepare", after="Record"), make("Usual"), make("Record", phase="record")]
    assert names(*[callbacks[place] for place in listed]) == ["Usual", "Record", "Late"]


def test_a_phase_that_does_not_exist_is_refused():
    with pytest.raises(
        CallbackError, match=r"Mine.phase must say when(.|\n)*Seen: 'recrod'.\nWrite one of 'prepare', 'act', 'r"
    ):
        names(make("Mine", phase="recrod"))


@pytest.mark.parametrize("own", [property(lambda self: 3), 3, lambda self: 3])
def test_a_callback_keeps_the_experiment_unless_it_has_something_else_of_that_name(own):
    plain, other = Callback(), type("Mine", (Callback,), {"exp": own})()
    before = other.exp

    for exp in ("first", "second"):
        plain.init(exp)
        other.init(exp)
        assert plain.exp == exp
        assert other.exp == before


def test_a_callback_that_is_a_frozen_dataclass_keeps_the_experiment():
    frozen = dataclass(frozen=True)(type("Frozen", (Callback,), {}))()

    frozen.init("first")

    assert frozen.exp == "first"
