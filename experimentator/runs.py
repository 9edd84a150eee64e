"""Run folders: everything a training leaves on disk; each file is whole at any moment, and reading it runs no code.

config.py            the configuration as given, where it came from a file or text
config.json          its resolved values
environment.json     versions, device, git commit, seed, overrides and the command
history.jsonl        one flat line for each epoch
log.txt              what the library logged
weights.safetensors  the weights of the last epoch; while the training runs, those of the first or a later one
pipeline.svg         the graph that is trained; after a failure it shows what failed. pipeline.json is its description,
                     for `experimentator graph RUN`
status.json          running, finished, interrupted or failed, the epoch that the weights are from, and the compiler of
                     each subset
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experimentator.callbacks.callback import Callback, ended_by, how_ended, nothing_saved
from experimentator.checkpoint import WEIGHTS, CheckpointError, lines_in, remove_unfinished, write_atomically
from experimentator.config import resolved
from experimentator.diagram import DiagramError, save
from experimentator.graph import Description, Mode, from_json, to_json, with_statuses
from experimentator.records.environment import environment
from experimentator.records.history import append, as_line
from experimentator.records.hold import Hold
from experimentator.records.plainfile import read_json, write_json
from experimentator.records.run_log import RunLog
from experimentator.records.run_places import LATEST, emptied, folder_name, found, make, point
from experimentator.records.throttle import Throttle

log = logging.getLogger(__name__)

DESCRIPTION = "pipeline.json"
STATUS = "status.json"
LOG = "log.txt"
DRAWING_SECONDS = 10.0  # a training waits no longer than this for its picture
WEIGHTS_SHARE, STATUS_SHARE, HISTORY_SHARE = 0.003, 0.002, 0.002  # share of a training's time for writing each
LASTING = 0.4  # seconds that a line of the history waits at most, until the end of the call under way


class RunFolder(Callback):
    """A callback that keeps a training in a folder of its own: `<output_folder>/<project>/<experiment id>/`.

    The folder is made when training starts, and must not exist; without an id, its name is the time in UTC. The setting
    `output_folder` adds this callback.

    >>> RunFolder("runs", project="digits", experiment_id="first")
    RunFolder('runs/digits/first')
    """

    leaves_files = True
    phase = "record"  # called after the others, so that the history has what they wrote
    state_dict = nothing_saved  # the state of a run is in its files

    def __init__(
        self,
        output_folder: str | os.PathLike[str],
        project: str = "experiment",
        *,
        experiment_id: str | None = None,
        overrides: Mapping[str, Any] = {},
    ):
        self.project = Path(output_folder) / folder_name(project, key="project_name")
        self.experiment_id = experiment_id and folder_name(experiment_id, key="experiment_id")
        self.overrides = dict(overrides)
        self.path: Path | None = None
        self.prepared: Path | None = None  # an existing folder to begin in
        self._log: RunLog | None = None
        self._held: Hold | None = None
        self.problem: BaseException | None = None
        self._outer: BaseException | None = None  # an exception being handled when the training was called
        self._written = 0  # epochs in the history file
        self._earlier: Mapping[str, Any] = {}  # status.json as it was when the run was resumed
        self._continues = False  # whether it was resumed, and has not trained since
        self._saved_epoch = 0  # the epoch that the weights in the folder are from
        self._saved_within = 0  # the epoch that had begun by then, if they are from the middle of it
        self._saving, self._telling = Throttle(WEIGHTS_SHARE), Throttle(STATUS_SHARE)
        self._noting = Throttle(HISTORY_SHARE)
        self._drawing: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path or self.project / (self.experiment_id or '...'))!r})"

    @classmethod
    def of(cls, exp: Any) -> RunFolder | None:
        """The run folder of an experiment: listed in its callbacks, or made for its `output_folder`, else None."""
        listed, own = [callback for callback in exp.callbacks if isinstance(callback, cls)], vars(exp)
        if not listed and exp.cfg.get("output_folder") and "_run_folder" not in own:
            own["_run_folder"] = cls(
                exp.cfg["output_folder"],
                exp.project_name,
                experiment_id=exp.cfg.get("experiment_id"),
                overrides=exp.source.overrides,
            )
        return listed[0] if listed else own.get("_run_folder")

    # The files

    @property
    def history(self) -> Path:
        """One line of JSON for each epoch."""
        return self.opened / "history.jsonl"

    @property
    def weights(self) -> Path:
        """The file of weights of the last epoch saved."""
        return self.opened / WEIGHTS

    @property
    def diagram(self) -> Path:
        """The picture of the graph that is trained."""
        return self.opened / "pipeline.svg"

    @property
    def earlier(self) -> Path | None:
        """The existing run with this id, or else the newest of the project that is no point of a sweep; or None."""
        return found(self.project, self.experiment_id)

    # What happens

    def on_train_begin(self, **_: Any) -> None:
        """Make the folder and describe the run; raises where nothing can be written."""
        self._outer = sys.exception()
        is_new = self.path is None
        self.path = self.path or self.prepared or make(self.project, self.experiment_id)
        self._hold(self.path)
        self._continue()
        self._listen()
        if is_new:
            self._write_status("running")
            self._describe()
            point(self.project / LATEST, self.path.name)
            self._draw()

    def begin_again(self, path: Path) -> None:
        """Use the folder of a run that ended before a checkpoint; its files are moved to `before-1`, ..."""
        self._hold(path)
        self.prepared = emptied(path)

    def reopen(self, path: Path | None) -> None:
        """Continue in the folder of a resumed run; once it trains, its history is replaced by the checkpoint's."""
        if path is None:
            return
        self._hold(path)
        self.path = path
        with suppress(CheckpointError):
            self._earlier = read_json(path / STATUS)
        self._continues = True

    def on_epoch_end(self, **_: Any) -> None:
        """Write the history, weights and status, each only if that takes little of the training's time."""
        self.on_pause()
        saves = self._saving.is_due and not self._is_last  # those of the last wait for what callbacks set at the end
        if saves:
            self._append_new()  # the history must have the epoch of the weights
            self._save()
        if saves or self._telling.is_due:
            self._write_status("running")

    def on_pause(self, **_: Any) -> None:
        """Write waiting lines of the history, so that they are on disk within a second."""
        if self._noting.is_due or self._noting.waited >= LASTING:
            self._append_new()

    def on_train_end(self, **_: Any) -> None:
        """Save what is not saved yet, and how the training ended; weights of a failed epoch are not saved."""
        if self.path is None:
            return
        try:
            self._hold(self.path)
        except OSError:  # another training has the folder by now, and this one never began
            return
        self.problem = ended_by(self._outer)
        try:
            self._continue()  # another callback may have failed before this one was told
            self._end(how_ended(self.problem))
        finally:
            if self._log is not None:
                self._log.close()
            if self._held is not None:
                self._held.release()
                self._held = None

    # How

    @property
    def opened(self) -> Path:
        """The folder, once there is one."""
        if self.path is None:
            raise ValueError(f"{self!r} does not exist yet.\nSeen: no training so far.\nTrain first.")
        return self.path

    @property
    def _is_last(self) -> bool:
        """Whether the training ends after this epoch."""
        return bool(self.exp.state.get("stop")) or self.exp.epoch >= self.exp.walk.goal

    def _hold(self, path: Path) -> None:
        self._held = self._held or Hold(path)

    def _continue(self) -> None:
        """Put the files of a resumed run to where it goes on; a resume without training changes none."""
        if self._continues:
            self._continues, self._saved_epoch, self._written = False, 0, len(self.exp.history)
            remove_unfinished(self.opened)
            write_atomically(self.history, "".join(map(as_line, self.exp.history)).encode())
            self._write_status("running")

    def _listen(self) -> None:
        self._log = self._log or RunLog(self.opened / LOG)
        if not self._log.is_open:
            self._log.open()
            log.info("Training from epoch %d, in %s.", self.exp.epoch + 1, self.path)

    def _end(self, status: str) -> None:
        if self._drawing is not None:
            self._drawing.join()
            self._drawing = None
        try:
            self._complete(status)
        except CheckpointError as error:  # a full disk: writing the status may fail, too
            self.problem = self.problem or error
            with suppress(CheckpointError):
                self._write_status("failed")
            raise
        if troubled := self._troubled():
            self._picture(with_statuses(from_json((self.opened / DESCRIPTION).read_text("utf-8")), troubled))
        log.info(
            "%s after epoch %d%s", status.capitalize(), self.exp.epoch, f": {self._error}" if self.problem else "."
        )

    def _complete(self, status: str) -> None:
        """Write what is not written yet, and the final status."""
        if self.history.exists():  # Ctrl-C may have come after a row was written, before it was counted
            self._written = lines_in(self.history)
        self._append_new()  # another callback may have failed before this one was told
        begun = not self.exp.epoch and self.exp.walk.is_cut_short
        if self._saved_epoch < self.exp.epoch or begun:
            if status == "failed":
                self._save_whole()
            else:
                self._save()
        self._write_status(status)

    def _save_whole(self) -> None:
        """Save the weights of a failed training, if they are those of the end of an epoch."""
        with suppress(Exception):  # the experiment may be unusable after the failure
            if self.exp.walk.is_whole():
                try:
                    self._save()
                except CheckpointError as error:
                    log.warning("The weights of epoch %d are not saved. %s", self.exp.epoch, error)

    @property
    def _error(self) -> str:
        return f"{type(self.problem).__name__}: {self.problem}".removesuffix(": ")

    def _append_new(self) -> None:
        if rows := self.exp.history[self._written :]:
            with self._noting:
                append(self.history, *rows)
            self._written += len(rows)

    def _save(self) -> None:
        with self._saving:
            self.exp.save_weights(self.weights)
        walk = self.exp.walk
        self._saved_epoch = self.exp.epoch
        self._saved_within = self.exp.epoch + 1 if walk.is_cut_short or walk.position is not None else 0

    def _write_status(self, status: str) -> None:
        error = None if self.problem is None else self._error
        row = {"status": status, "error": error, "epoch": self.exp.epoch, "epoch_of_weights": self._saved_epoch or None}
        if self._saved_within:
            row |= {"epoch_of_weights": None, "weights": f"from the middle of epoch {self._saved_within}"}
        elif not self._saved_epoch:  # the file has the weights from before the resume
            row |= {name: self._earlier[name] for name in ("epoch_of_weights", "weights") if name in self._earlier}
        compilers = self.exp.compilers or self._earlier.get("compilers")  # results depend on them in the last bits
        stop = self.exp.state.get("stop")  # why a callback ended the training
        told = {"stopped": stop, "compilers": compilers, "processors": self._troubled()}
        if status == "running":  # others can look whether this process is still there
            row |= {"process": os.getpid(), "host": platform.node()}
        with self._telling:
            write_json(self.opened / STATUS, row | {name: values for name, values in told.items() if values})

    def _describe(self) -> None:
        exp = self.exp
        if exp.source.text:
            write_atomically(self.opened / "config.py", exp.source.text.encode())
        write_json(self.opened / "config.json", resolved(exp.cfg))
        write_json(self.opened / "environment.json", environment(exp, self.overrides))

    def _troubled(self) -> dict[str, str]:
        """By processor, what the failure says about it."""
        troubles: dict[str, str] = self.exp.troubles(self.problem) if isinstance(self.problem, Exception) else {}
        return troubles

    def _draw(self) -> None:
        described = self.exp.describe(Mode.TRAIN)
        write_atomically(self.opened / DESCRIPTION, to_json(described).encode())
        self._drawing = threading.Thread(target=self._picture, args=(described,), daemon=True)  # takes 0.1 s
        self._drawing.start()

    def _picture(self, picture: Description) -> None:
        try:
            save(picture, self.diagram, timeout=DRAWING_SECONDS)
        except (CheckpointError, DiagramError) as error:
            log.warning("This run has no pipeline.svg. %s", error)
