"""Event files for TensorBoard, written by the `tensorboard` package; TensorFlow is not needed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experimentator.trackers.tracker import TrackedRun, require


class TensorBoardTracker:
    """Write scalars to `folder`, else to `tensorboard` in the run folder: `tensorboard --logdir runs` shows all runs.

    Without a run folder they go to `tensorboard/<project>/<name>`. The configuration is shown as text; files are not
    kept.

    >>> TensorBoardTracker("events").folder
    'events'

    Raises:
        MissingTrackerError: without `pip install "experimentator-dl[tensorboard]"`.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        require("tensorboard", asker=self)
        self.folder = folder
        self.writer: Any = None

    def start(self, run: TrackedRun) -> None:
        """Open a file of events; after a kill, what was told of later epochs, which come again, is shown no more."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        own = run.folder / "tensorboard" if run.folder else Path("tensorboard", run.project, run.name)
        self.writer = EventFileWriter(str(self.folder or own))
        if run.epochs:
            begins = SessionLog(status=SessionLog.START)
            self.writer.add_event(Event(wall_time=time.time(), step=run.epochs + 1, session_log=begins))
        self._add([_text("config", json.dumps(dict(run.config), indent=2))], step=0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """An event for an epoch or a batch, on disk at once."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add([Summary.Value(tag=name, simple_value=value) for name, value in values.items()], step=step)

    def artifact(self, path: Path) -> None:
        """TensorBoard keeps no files."""

    def finish(self, status: str) -> None:
        """Close the file."""
        self.writer.close()

    def _add(self, values: list[Any], *, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self.writer.flush()


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    block = "".join(f"    {line}\n" for line in text.splitlines())  # Markdown: shown as it is
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[block.encode()])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
