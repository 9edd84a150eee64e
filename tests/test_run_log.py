"""The log of a run: what it holds, and that nobody hears more for it."""

from __future__ import annotations

import logging

import pytest

from experimentator.records.run_log import RunLog

log = logging.getLogger("experimentator.somewhere")


@pytest.fixture
def heard():
    """What a handler of the user's hears, at the level they set for everything."""
    handler, lines = logging.Handler(), []
    handler.emit = lambda record: lines.append(record.getMessage())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def logged(path):
    return [line[20:] for line in path.read_text().splitlines()]


def test_the_file_has_information_that_others_do_not_hear(tmp_path, heard):
    run = RunLog(tmp_path / "log.txt")
    run.open()
    log.info("one")
    log.warning("two")
    run.close()
    log.warning("three")

    assert logged(tmp_path / "log.txt") == [
        "INFO experimentator.somewhere: one",
        "WARNING experimentator.somewhere: two",
    ]
    assert heard == ["two", "three"]


def test_who_asked_for_information_hears_it_once(tmp_path, heard):
    logging.getLogger().setLevel(logging.INFO)
    run = RunLog(tmp_path / "log.txt")
    run.open()
    run.open()
    log.info("one")
    run.close()

    assert heard == ["one"]
    assert len(logged(tmp_path / "log.txt")) == 1


def test_logging_is_left_as_it_was(tmp_path):
    logger = logging.getLogger("experimentator")
    before = logger.level, logger.propagate, list(logger.handlers)
    run = RunLog(tmp_path / "log.txt")
    run.open()
    run.close()
    run.close()

    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_a_message_stays_one_entry_and_commands_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger("experimentator"), "propagate", False)  # pytest's reports are UTF-8
    run = RunLog(tmp_path / "log.txt")
    run.open()
    log.warning("a\x1b[31m\nb\ud800")
    run.close()

    assert (tmp_path / "log.txt").read_text()[20:] == "WARNING experimentator.somewhere: a\\x1b[31m\n    b\\ud800\n"


def test_a_log_that_cannot_be_written_warns_once_and_stops_nothing(tmp_path, heard):
    run = RunLog(tmp_path / "nowhere" / "log.txt")
    run.open()
    log.info("one")
    log.info("two")
    run.close()

    assert heard == ["The log of this run ends here: No such file or directory."]
