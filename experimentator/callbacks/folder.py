"""Where callbacks leave files: the run folder if there is one, else a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_folder(exp: Any) -> Path | None:
    """The folder of this run; None without one, and before training makes it."""
    acting = exp.walk.acting if exp.walk.trains else ()  # settings that are changed meanwhile name the next run
    candidates = [*acting, *exp.callbacks, vars(exp).get("_run_folder")]
    paths = [one.path for one in candidates if "RunFolder" in (kind.__name__ for kind in type(one).__mro__)]
    return next((Path(path) for path in paths if path is not None), None)
