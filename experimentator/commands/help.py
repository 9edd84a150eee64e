"""The help of the command line, which is written by hand."""

from __future__ import annotations

EXIT_STATUS = """\
Exit status:
    0  done                                    4  the loss became NaN or infinite
    1  unexpected error, or one in your code   5  a file cannot be read or written
    2  usage, configuration, graph, callback   130  Ctrl-C
    3  data: a dataset or one of its items     143  terminated
"""

HELP = f"""\
experimentator: train the experiment of a configuration file, look at its graph, use what was trained.

  experimentator run CONFIG [options]      train (the word `run` may be left out)
  experimentator graph CONFIG [options]    print or draw the graph of chunk processors
  experimentator bench CONFIG [options]    measure the training: what its time goes to, and what would help
  experimentator runs [FOLDER] [options]   list runs, filter and sort them
  experimentator evaluate RUN [options]    measure a run's weights on its subsets
  experimentator predict RUN [options]     write what a run's weights predict for a subset
  experimentator export RUN [options]      write what a run infers as a file for use elsewhere
  experimentator verify-resume CONFIG      kill the training at random moments, resume it, and compare
  experimentator COMMAND --help            options and examples of a command
  experimentator --version

A configuration is a Python program and runs with your rights: read it before you run it.

{EXIT_STATUS}"""

RUN_HELP = """\
experimentator run CONFIG [options]: train the experiment of a configuration file.

  --epochs N              train for N epochs (default: the configuration's `epochs`, else 10)
  --set NAME=VALUE        give a name of the configuration another value before anything uses it; repeat at will
  --grid NAME=[V1,V2]     train once for each value, each in a process and run folder of its own; repeat for more axes
  --grid NAME=RANGE       or with values drawn from uniform(LOW, HIGH) or loguniform(LOW, HIGH), for --sample
  --sample N              train N points of the grid, drawn at random; a larger N keeps these and adds others
  --jobs N                train N points at once; where there are several GPUs, on one each (default: 1)
  --hang-seconds S        end a point that made no progress for S seconds (default: 3600); before its first step, while
                          it imports and compiles, it has at least a minute
  --seed N                the same as --set seed=N
  --output-folder DIR     where run folders go (default: the configuration's `output_folder`, else runs)
  --experiment-id ID      name of the run folder (default: the time in UTC); never one that exists
  --resume [RUN]          continue a run at the very batch where it stopped: the one in that folder, else the latest of
                          this configuration that is no point of a --grid
  --resume auto           the same, or start if there is nothing to resume, so that a command may be repeated; of a
                          --grid, points that are done are kept, and others are continued or trained again
  --checkpoint-seconds S  save a checkpoint every S seconds (default: at epoch ends, in under a hundredth of the time)
  --profile               record half a second of an epoch into <run folder>/profile, for TensorBoard and Perfetto
  --quiet                 no progress display; of a --grid, a line where each point begins and where it ends
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Values are Python literals or bare words: 1e-3, [32, 64], True, adam.

A run folder, DIR/<project>/<id>/, holds config.py, config.json, environment.json, history.jsonl, weights.safetensors,
checkpoints/, pipeline.svg, status.json and log.txt; DIR/<project>/latest leads to the newest. Progress goes to stderr,
results to stdout. `experimentator runs` lists runs. Points of a grid have DIR/<project>/<id>-<number>/ each, and
DIR/<project>/<id>/ holds sweep.jsonl, how each ended, and sweep.svg, a picture of what each axis does.

Examples:
  experimentator run examples/digits.py --epochs 12
  experimentator run task.py --set batch_size=64 --set optimizer_name=adam --output-folder results
  python -m experimentator task.py --epochs 10 --grid "learning_rate=[0.1,0.01,0.001]"
  experimentator run task.py --grid "learning_rate=loguniform(1e-4, 0.1)" --grid "seed=[0,1]" --sample 20 --jobs 2
"""

GRAPH_HELP = """\
experimentator graph CONFIG [options]: print or draw the graph of chunk processors.

CONFIG is a configuration file, a run folder, or a description that -o FILE.json wrote.

  --mode MODE             train, eval or infer (default: train; in a .html all three)
  --for NAME[,NAME]       only what these names depend on (default: what the mode computes)
  --plan                  show what is left out too, greyed, and why
  --all                   every processor of the mode, pruned or not
  --diff OTHER            what another configuration, run folder, description or mode adds, lacks or changes
  --cost                  measure what each processor costs, in about 20 seconds, and show it as heat and numbers
  --tree                  print the graph from each output back to what it needs
  -o FILE                 write it; the suffix says how: .svg .png .pdf (drawn), .html (to click through), .dot, .mmd or
                          .md (Mermaid), .txt, .json (to compare with later), .model-explorer.json (for Model Explorer)
  --open                  draw it and open it in the browser; without -o, as a page to click through
  --theme THEME           light, dark or auto (default: auto, where .svg and .html follow the reader's setting)
  --unfold                draw every processor of a large graph, instead of chains as one box
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Examples:
  experimentator graph examples/digits.py
  experimentator graph task.py --mode infer --for batch_logits
  experimentator graph task.py --open
  experimentator graph task.py --mode eval -o pipeline.svg
  experimentator graph task.py --diff eval
  experimentator graph runs/task/first --diff runs/task/latest -o difference.svg
"""

BENCH_HELP = """\
experimentator bench CONFIG [options]: measure the training of a configuration on this machine.

CONFIG is a configuration file, or a run folder, whose stored configuration, a program, is run anew. Nothing is written
without -o: run folders are not changed, and callbacks of the library that leave files are left out; yours do run.

It shows steps and samples a second; where the time goes, adding up to the whole; the same loop written by hand as the
ceiling; what each processor costs; memory; and the one change that would help most.

  --seconds S             measure for about this long, not counting compilation (default: 30)
  --against keras         the same graph inside keras.Model.fit too: as it is, and with the options that make it quick
  --sweep NAME=V1,V2,V3   train with each of these values instead, in turn; -o FILE.svg draws the curve
  --compare OTHER         train another configuration or run in turn with it, and say whether they differ
  --json                  print the report as JSON
  -o FILE                 write it: .txt, .json, or .svg (the graph with its costs, or the curve of a sweep)
  --epochs N              the length of training that one-off costs are spread over (default: the configuration's)
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
  --seed N                the same as --set seed=N
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

The JSON says what the text does, in seconds, bytes, shares of 1. Spreads are {median, low, high (quartiles), rounds}.
  configuration, device, backend, compiler, batch_size, steps, epochs, place, left_out, is_cut    what was measured
  steps_per_second, samples_per_second    spreads
  time                    step and whole: seconds by kind; evaluation is its share of an epoch; callbacks, by name
  by_hand, keras          by name: steps_per_second, and ratio, of ours to it; refused says why others are missing
  costs                   step, rows, processors (names, forward, backward, spread, is_sure, is_fused), by_name
  peak_memory             host and device
  padded                  by subset with buckets: the one that holds all, which its items are padded to here
  verdict, also           kind, share, gain (times as fast), words
Of a sweep it says name, points and failed, of a comparison first, second, ratio, p_value, margin, rounds, test.

Examples:
  experimentator bench examples/digits.py
  experimentator bench task.py --against keras --set batch_size=64
  experimentator bench task.py --sweep batch_size=32,64,128 -o curve.svg
  experimentator bench task.py --compare runs/task/latest --json
"""

RUNS_HELP = """\
experimentator runs [FOLDER] [options]: list the runs in a folder and below it (default: runs).

  --filter FILTER         only runs for which this holds: NAME=VALUE, or with !=, <, <=, > or >=; repeat for more
  --sort NAME             by a value instead of the start; runs without it come last
  --descending            the largest first, without --sort the newest
  --json                  everything as JSON
  -o FILE.html            a page with the curves of what was measured, and the table
  --open                  the same, opened in the browser
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Names are status, epochs, started, project, id and run; what was measured in the best epoch; and what is configured.
The best epoch is the one that SaveWeights("best") kept, else the one with the smallest validation loss. A run is
running, finished, interrupted, failed, lost, when its process is gone without a word, or damaged, when a file of it
cannot be read: what is wrong with it is told, and the exit status is 5. Nothing of a run is executed.

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
lay beside it. It is refused if it is not, byte for byte, what was trained: this detects damage, not forgery. Name no
run folder of somebody whose programs you would not run. Its weights are data: nothing in them is run.
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

VERIFY_HELP = """\
experimentator verify-resume CONFIG [options]: prove that this training resumes exactly.

It is trained once without interruption, then killed (SIGKILL) at random moments and resumed until it is done. What both
left is compared bit for bit, by a reader that does not import the library: weights, optimizer, seeds, state of
callbacks, history. What the proof does not cover is printed, too.

  --kills N               how often it is killed (default: 3)
  --seed S                draw the moments from this seed, to repeat a trial (default: another each time)
  --epochs N              train for N epochs (default: the configuration's `epochs`, else 10)
  --set NAME=VALUE        give a name of the configuration another value; repeat at will
  --output-folder DIR     keep the runs there (default: a temporary folder, kept if they differ)
  --traceback             show errors with every frame (or set EXPERIMENTATOR_TRACEBACK=1)

Exit status: 0 equal, 1 not equal, 2 usage; if the training itself fails, its own.

Example:
  experimentator verify-resume task.py --kills 5 --epochs 3
"""
