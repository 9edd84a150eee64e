"""X1: checkpoints that somebody made on purpose, with right hashes, loaded under an observer that sees what happens."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from experimentator.saving import manifest
from experimentator.saving.resume import STATE, WEIGHTS, captured
from tests.test_resume import built

ROOT = Path(__file__).resolve().parent.parent
CANARY = b"cos\nsystem\n(S'touch canary'\ntR."  # a pickle that runs a command

OBSERVED = """
import sys
from pathlib import Path
from tests.test_resume import CONFIG
from experimentator import ResumeError, WeightsError, build_experiment
from experimentator.checkpoint import CheckpointError
import experimentator.saving.resume, safetensors.numpy

seen, watching = [], False
def observe(event, given):
    if not watching:
        return
    inside = event == "open" and isinstance(given[0], str) and given[0].startswith(sys.argv[1])
    known = event == "import" and (given[0] in sys.modules or given[0].partition(".")[0] in sys.modules)
    listing = event in ("os.listdir", "os.scandir") and str(given[0]).startswith(sys.argv[1])
    harmless = event.startswith(("object.", "sys._getframe", "os.lstat", "builtins.id", "open")) and event != "open"
    if not (inside or known or listing or harmless or (event == "open" and isinstance(given[0], int))):
        seen.append(f"{event} {given!r:.100}")
sys.addaudithook(observe)

refused, cases = 0, sorted(Path(sys.argv[1]).iterdir())
exp = build_experiment(CONFIG, hide_progress=True)
exp.listeners, exp.program.prepare(), experimentator.saving.identity.identity(exp)
for case in cases:
    watching = True
    try:
        exp.resume(case)
        print("taken", case.name)
    except (CheckpointError, ResumeError, WeightsError) as error:
        refused += bool(str(error))
    finally:
        watching = False
watching = True
import pickle
try:
    pickle.loads(b"cos\\nsystem\\n(S'true'\\ntR.")
finally:
    watching = False
print("refused", refused, "of", len(cases))
print("alarms", len([one for one in seen if one.startswith(("pickle.find_class", "os.system"))]), "other", [
    one for one in seen if not one.startswith(("pickle.find_class", "os.system"))])
"""


def edited(change):
    """The state of a checkpoint with one thing changed."""

    def make(files):
        tree = json.loads(files[STATE])
        change(tree)
        return {**files, STATE: json.dumps(tree).encode()}

    return make


def set_to(value, *way):
    def change(tree):
        for step in way[:-1]:
            tree = tree[step]
        tree[way[-1]] = value

    return edited(change)


def taken_out(*way):
    def change(tree):
        for step in way[:-1]:
            tree = tree[step]
        del tree[way[-1]]

    return edited(change)


def replaced(name, data):
    return lambda files: {**files, name: data}


def tensors(header, content=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def one(**changes):
    return {"Line/0/slope": {"dtype": "F64", "shape": [], "data_offsets": [0, 8], **changes}}


CASES = {
    **{f"pickle as {name}": replaced(name, CANARY) for name in manifest.FILES},
    "state: a list": replaced(STATE, b"[]"),
    "state: null": replaced(STATE, b"null"),
    "state: deep": replaced(STATE, b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "state: a key twice": replaced(STATE, b'{"epoch": 1, "epoch": 2}'),
    "state: NaN": set_to(float("nan"), "epoch"),
    "state: 1e999": lambda files: {**files, STATE: files[STATE].replace(b'"epoch": 0', b'"epoch": 1e999', 1)},
    "state: lone surrogates": set_to({"\ud800": 1}, "position"),
    "history: text": set_to("epochs", "history"),
    "history: longer than the epochs": set_to([{"epoch": 1}] * 5, "history"),
    "history: numbers": set_to([1], "history"),
    "epoch: text": set_to("x", "epoch"),
    "position: of no subset": set_to("../../etc", "position", "subset"),
    "position: before the first batch": set_to(-5, "position", "batch"),
    "position: half a batch": set_to(0.5, "position", "batch"),
    "position: text in its sums": set_to({"loss": "x"}, "position", "totals"),
    "position: other names": set_to({"eval": "1"}, "position"),
    "a kind that runs": set_to({"$": "eval", "of": "__import__('os').system('touch canary')"}, "state", "x"),
    "a kind of an object": set_to({"$": "object", "of": "os.system"}, "state", "x"),
    "an array that there is not": set_to({"$": "array", "of": "x"}, "state", "x"),
    "a set of lists": set_to({"$": "set", "of": [[]]}, "state", "x"),
    "callbacks: another's state": set_to({"best": {}}, "callbacks", "DeclaredLuck#1"),
    "callbacks: a list": set_to([], "callbacks"),
    "callbacks: one more": set_to({"x": 1}, "callbacks", "os.system#1"),
    "generators: none": taken_out("random", "numpy"),
    "generators: of another kind": set_to([3, [1, 2], None], "random", "python"),
    "generators: negative": set_to([3, [-1] * 625, None], "random", "python"),
    "about: none": taken_out("about"),
    "about: no choices": taken_out("about", "choices"),
    "about: choices of another form": set_to({"training": 1}, "about", "choices"),
    "about: settings of another experiment": set_to({"batch_size": 1}, "about", "config"),
    "weights: empty": replaced(WEIGHTS, b""),
    "weights: zip": replaced(WEIGHTS, b"PK\x03\x04" + b"\0" * 60),
    "weights: hdf5": replaced(WEIGHTS, b"\x89HDF\r\n\x1a\n" + b"\0" * 60),
    "weights: npy of objects": replaced(WEIGHTS, b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False}" + CANARY),
    "weights: a header longer than the file": replaced(WEIGHTS, struct.pack("<Q", 1 << 62) + b"{}"),
    "weights: a header of 200 MB": replaced(WEIGHTS, struct.pack("<Q", 200 << 20) + b"{}"),
    "weights: no object": replaced(WEIGHTS, tensors(b"[]")),
    "weights: deep": replaced(WEIGHTS, tensors(b'{"a":' * 5000)),
    "weights: offsets beyond the end": replaced(WEIGHTS, tensors(one(data_offsets=[0, 1 << 40]))),
    "weights: offsets backwards": replaced(WEIGHTS, tensors(one(data_offsets=[8, 0]))),
    "weights: a negative shape": replaced(WEIGHTS, tensors(one(shape=[-1]))),
    "weights: a shape that overflows": replaced(WEIGHTS, tensors(one(shape=[1 << 40, 1 << 40]))),
    "weights: an unknown dtype": replaced(WEIGHTS, tensors(one(dtype="O"))),
    "weights: a hole": replaced(WEIGHTS, tensors(one(data_offsets=[8, 16]))),
    "weights: overlapping": replaced(WEIGHTS, tensors({**one(), "x": one()["Line/0/slope"]})),
    "weights: names with nulls and dots": replaced(WEIGHTS, tensors({"../\0x": one()["Line/0/slope"]}, b"\0" * 8)),
    "weights: other names": replaced(WEIGHTS, tensors({"x": one()["Line/0/slope"]}, b"\0" * 8)),
}  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The files of a checkpoint in the middle of an evaluation."""
    from experimentator.saving.identity import identity

    kept = []
    exp = built(tmp_path_factory.mktemp("good"), "good", every=1e9, steps_per_call=1)

    class Look:
        def on_pause(self, state, **_):
            if not kept and exp.walk.position and exp.walk.position.subset == "validation":
                kept.append(captured(exp, identity(exp)))

    exp.callbacks.append(Look())
    exp.train(1)
    return kept[0]


def test_no_hostile_checkpoint_is_taken_or_runs_anything(tmp_path, good):
    for number, (name, make) in enumerate(CASES.items()):
        manifest.write(tmp_path / f"{number:02d} {name.replace('/', ' ')}", make(good), step=1)

    done = subprocess.run(
        [sys.executable, "-c", OBSERVED, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"refused {len(CASES)} of {len(CASES)}", "alarms 2 other []"]
    assert not list(ROOT.glob("canary"))


def test_the_checkpoint_that_they_are_made_of_is_taken(tmp_path, good):
    manifest.write(tmp_path, good, step=1)

    exp = built(tmp_path / "runs", "new")
    exp.resume(tmp_path)

    assert exp.walk.position.subset == "validation"
