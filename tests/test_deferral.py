"""The command line loads parts of Keras only where something asks for them, and then they are whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = """
import sys
import keras, numpy
from experimentator import Callback, Mode, Subset
from experimentator.ops import Model, SoftmaxCrossEntropy
{more}

class Tell(Callback):
    def on_epoch_end(self, **_):
        sys.stderr.write(f"brought: {{sorted({{'matplotlib', 'sklearn'}} & sys.modules.keys())}}\\n")
        keras.visualization, keras.wrappers.SKLearnClassifier, keras.src.visualization.plot_image_gallery
        from keras.wrappers import SKLearnRegressor
        assert SKLearnRegressor is keras.wrappers.SKLearnRegressor and "SKLearnRegressor" in dir(keras.wrappers)
        assert not hasattr(keras.wrappers, "Nothing")
        sys.stderr.write(f"asked for: {{sorted({{'matplotlib', 'sklearn'}} & sys.modules.keys())}}\\n")

subsets = [Subset("training", Mode.TRAIN, {{"x": numpy.ones((8, 4), "float32"), "y": numpy.zeros(8, "int32")}})]
batch_size = 4
optimizer = keras.optimizers.SGD(0.1)
chunk_processors = [
    Model(keras.layers.Dense(2), inputs="batch_x", outputs="logits"), SoftmaxCrossEntropy("logits", "batch_y")
]
callbacks = [Tell()]
"""


@pytest.mark.parametrize(
    "more, brought", [("", []), ("from keras.wrappers import SKLearnClassifier", ["sklearn"])], ids=["none", "one"]
)
def test_what_a_training_does_not_use_is_loaded_when_asked_for(tmp_path, more, brought):
    (tmp_path / "task.py").write_text(CONFIG.format(more=more), "utf-8")
    command = [sys.executable, "-m", "experimentator", "run", "task.py", "--epochs", "1"]

    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert f"brought: {brought}" in done.stderr
    assert "asked for: ['matplotlib', 'sklearn']" in done.stderr


def test_a_process_that_is_not_the_command_lines_own_imports_as_ever():
    code = (
        "from experimentator.cli import main; main(['--version']); import sys, keras; print('sklearn' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "True"
