"""The command line: what is around its commands, which have a module each in `commands/`.

Frameworks take seconds to load, so nothing is imported before it is needed.
"""

from __future__ import annotations

import argparse
import atexit
import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from experimentator.commands import collector, deferral, failures
from experimentator.commands.usage import parse
from experimentator.signals import HELD


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit status.

    >>> main(["--version"])
    experimentator ...
    0
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")  # `failures` leaves out what is of no help
    _prefer_installed()
    _open_streams()
    if argv is None:
        collector.take()
        deferral.defer()
    words = sys.argv[1:] if argv is None else list(argv)
    whole = "--traceback" in words or os.environ.get("EXPERIMENTATOR_TRACEBACK", "") not in ("", "0")
    try:
        with _terminable():
            status = _obey(parse(words))
            sys.stdout.flush()
            return status
    except SystemExit as stop:  # raised by the configuration
        return _obey_exit(stop.code)
    except BaseException as error:
        status = _fail(error, whole)
        if argv is None and isinstance(error, KeyboardInterrupt):
            _leave(status)
        return status


def _prefer_installed() -> None:
    """If TensorFlow, Keras' default, is not installed, let Keras run on JAX, or else on PyTorch.

    KERAS_BACKEND, and another backend in `keras.json`, which Keras itself reads, take precedence.
    """
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules or find_spec("tensorflow") is not None:
        return
    try:
        settings = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
        wanted = json.loads(settings.read_text("utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        wanted = "tensorflow"
    installed = [name for name in ("jax", "torch") if find_spec(name) is not None]
    if wanted == "tensorflow" and installed:
        os.environ["KERAS_BACKEND"] = installed[0]


def _open_streams() -> None:
    """Discard what is written to a stream that the caller closed (`>&-`), instead of failing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals without Unicode


def _obey_exit(code: object) -> int:
    """The exit status of `sys.exit(code)`, as Python has it: a number is the status, a text is shown."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _obey(arguments: argparse.Namespace) -> int:
    """Call the command, each of which takes the arguments and returns the exit status."""
    if arguments.command == "run":
        from experimentator.commands.run import run as act
    elif arguments.command == "graph":
        from experimentator.commands.show import show as act
    elif arguments.command == "bench":
        from experimentator.commands.bench import bench as act
    elif arguments.command == "runs":
        from experimentator.commands.listing import list_runs as act
    elif arguments.command == "evaluate":
        from experimentator.commands.reuse import evaluate as act
    elif arguments.command == "predict":
        from experimentator.commands.reuse import predict as act
    elif arguments.command == "export":
        from experimentator.commands.reuse import export as act
    elif arguments.command == "verify-resume":
        from experimentator.commands.verify import verify_resume as act
    else:  # help, version
        sys.stdout.write(arguments.text)
        return 0
    return act(arguments)


def _fail(error: BaseException, whole: bool) -> int:
    status = failures.exit_status(error)
    if status == failures.BROKEN_PIPE:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status
    from experimentator.graph.text import printable  # takes 0.04 s

    with suppress(OSError):  # the terminal was closed
        if whole:
            traceback.print_exception(error)
        else:
            print(*map(printable, failures.message(error).expandtabs().splitlines()), sep="\n", file=sys.stderr)
    return status


def _leave(status: int) -> NoReturn:
    """Exit with this status; after Ctrl-C within C code that runs Python, `sys.exit` would die of SIGINT instead."""
    if reading := sys.modules.get("experimentator.loading.processes"):
        reading.end_all()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end a training as Ctrl-C does, with a complete run folder."""

    def stop(number: int, _: Any) -> None:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)  # shell and system each send one SIGHUP
        raise failures.Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HELD if number != signal.SIGINT}
    for number, handler in before.items():
        if number == signal.SIGTERM or handler != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
