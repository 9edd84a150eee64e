"""The arguments and help of the commands on trained runs: `runs`, `evaluate`, `predict`, `export`."""

from __future__ import annotations

import argparse

from experimentator.commands.usage import OUTPUT_FOLDER, Usage, add_set, names

RUNS_HELP = """\
experimentator runs [FOLDER] [options]: list the runs in a folder and below it (default: runs).

  --filter FILTER         only runs for which this holds: NAME=VALUE, or with !=, <, <=, > or >=; repeat for more
  --sort NAME             by a value instead of the start; runs without it come last
  --descending            the largest first
  --json                  everything as JSON
  -o FILE.html            a page with the curves of what was measured, and the table
  --open                  the same, opened in the browser
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Names are status, epochs, started, project, id and run; what was measured in the best epoch; and what is configured.
The best epoch is the one that SaveWeights("best") kept, else the one with the smallest validation loss. A run is
running, finished, interrupted, failed, or lost, when its process is gone without a word. Nothing of a run is executed.

Examples:
  experimentator runs
  experimentator runs runs/digits --sort validation_accuracy --descending
  experimentator runs --filter status=finished --filter "validation_loss<0.2" --filter learning_rate=0.001
  experimentator runs runs/digits --open
  experimentator runs --json > runs.json
"""

OF_A_RUN = """\
  --weights WHICH         last, best (SaveWeights), or a file (default: last; averaged ones where training averaged)
  --config FILE           run this configuration instead of the stored one
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
"""

OF_ITS_CODE = """\
This runs the configuration that is stored in the run folder, a Python program, with your rights, and the modules that
lay beside it. It is refused if it is not, byte for byte, what was trained: this detects damage, not forgery. Evaluate
no run folder of somebody whose programs you would not run. Its weights are data: nothing in them is run.
"""

EVALUATE_HELP = f"""\
experimentator evaluate RUN [options]: measure the weights of a run on its EVAL subsets, or on one.

  --subset NAME           this subset, of any mode
{OF_A_RUN}\
  --json                  print JSON
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

{OF_ITS_CODE}
Examples:
  experimentator evaluate runs/digits/latest
  experimentator evaluate runs/digits/first --subset test --weights best --json
"""

PREDICT_HELP = f"""\
experimentator predict RUN --subset NAME -o FILE [options]: what the weights of a run give for a subset.

  --subset NAME           of any mode; the INFER graph runs, without augmentation and targets
  -o FILE                 .npz: `keys` and an array for each output; .jsonl or .csv: a line for each key
  --outputs NAME[,NAME]   only these (default: the configuration's `outputs`, else all that can be computed)
{OF_A_RUN}\
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

{OF_ITS_CODE}
Examples:
  experimentator predict runs/digits/latest --subset validation -o scores.npz
  experimentator predict runs/digits/first --subset validation --outputs batch_probabilities -o scores.csv
"""

EXPORT_HELP = f"""\
experimentator export RUN -o FILE [options]: what a run infers, as a file that runs without this library.

  -o FILE                 a folder without a suffix: a SavedModel of TensorFlow (of runs on TensorFlow and JAX);
                          .onnx: ONNX (pip install "experimentator-dl[onnx]"); .tflite: LiteRT (TensorFlow);
                          .pt2: a program of PyTorch (PyTorch)
  --outputs NAME[,NAME]   what it computes (default: the configuration's `outputs`, else all that INFER does)
  --sizes NAME=[N,None]   sizes of an input without the batch axis, None for any (default: those of an item)
{OF_A_RUN}\
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

{OF_ITS_CODE}
Examples:
  experimentator export runs/digits/latest -o digits
  experimentator export runs/digits/first --weights best --outputs batch_probabilities -o digits.onnx
  experimentator export runs/shapes/latest --sizes "batch_input=[None, None, 3]" -o shapes.onnx
"""


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=OUTPUT_FOLDER, metavar="FOLDER")
    parser.add_argument("--filter", dest="filters", action="append", default=[])
    parser.add_argument("--sort", metavar="NAME")
    parser.add_argument("--descending", action="store_true")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("-o", "--output", metavar="FILE")
    parser.add_argument("--open", action="store_true")


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--subset", metavar="NAME")
    parser.add_argument("--json", action="store_true")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--subset", metavar="NAME", required=True)
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--outputs", dest="names", type=names)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-o", "--output", metavar="FILE", required=True)
    parser.add_argument("--outputs", dest="names", type=names)
    parser.add_argument("--sizes", action="append", default=[], metavar="NAME=SIZES")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--weights", default="last")
    parser.add_argument("--config", metavar="FILE")
    add_set(parser)


USAGE_OF_RUNS: Usage = {
    "runs": (RUNS_HELP, _add_runs),
    "evaluate": (EVALUATE_HELP, _add_evaluate),
    "predict": (PREDICT_HELP, _add_predict),
    "export": (EXPORT_HELP, _add_export),
}
