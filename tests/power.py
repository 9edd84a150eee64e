"""Power cuts: what a disk holds at random moments while a training runs on it, without what was not forced to it.

`unshare --mount python -m tests.power PLACE CUTS OPTIONS` mounts a disk of its own in PLACE, with these options of
ext4, and trains on it in another process, which says when a call that saves has returned. At each cut the image
beneath the disk is copied, as the disk would be found after it, and the copy mounted. Prints a line of JSON: of each
cut what was said before, what was found after, and whether going on from there gave what a training without cuts does.
With UNFORCED in the environment, nothing is forced to the disk: then cuts must be seen to take what was said.
"""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from experimentator import build_experiment
from experimentator.checkpoint import CheckpointError
from experimentator.commands.outside import lines
from experimentator.saving.manifest import newest

CONFIG = str(Path(__file__).parent / "configs" / "momentum.py")
RUN = "momentum/a"
MORE = 3  # epochs, to see whether it goes on
LONGEST = 0.4  # seconds between a cut and the next: ext4 writes what is not forced every so often, at `commit=1`


def experiment(disk):
    return build_experiment(CONFIG, hide_progress=True, output_folder=str(disk), experiment_id="a")


def train(disk, told):
    """In a process of its own: an epoch more with each call, and its number once the call returned."""
    if os.environ.get("UNFORCED"):
        os.fsync = lambda handle: None
    exp = experiment(disk)
    for epoch in itertools.count(1):
        exp.train(epoch)
        os.write(told, f"{epoch}\n".encode())


def said(told, before):
    """The last number that was told."""
    try:
        return int(os.read(told, 1 << 16).split()[-1])
    except BlockingIOError:
        return before


def copied(image, to):
    """Copy what lies beneath a disk while nobody writes: until two copies are the same."""
    data = None
    while (again := image.read_bytes()) != data:
        data = again
    to.write_bytes(data)


def mount(image, on, options):
    on.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", "-o", f"loop,{options}", image, on], check=True)


def found(disk):
    """The epoch of the newest checkpoint that is whole, and how many whole rows the history has; 0 without any."""
    run = disk / RUN
    try:
        read = newest(run / "checkpoints")
    except CheckpointError:
        read = None
    history = run / "history.jsonl"
    rows = history.read_bytes().split(b"\n")[:-1] if history.exists() else []
    return (int(read.about["epoch"]) if read else 0), sum(row.startswith(b"{") for row in rows)


def goes_on(disk, epoch):
    """Whether a training that goes on there ends, in every byte, as one that was never cut."""
    exp = experiment(disk)
    exp.resume(disk / RUN)
    exp.train(epoch + MORE)
    experiment(PLACE / "whole").train(epoch + MORE)
    same = lines(disk / RUN) == lines(PLACE / "whole" / RUN)
    shutil.rmtree(PLACE / "whole")
    return same


def cut(pid, told, before, options):
    """One cut at a random moment."""
    time.sleep(random.uniform(0, LONGEST))
    os.kill(pid, signal.SIGSTOP)
    before = said(told, before)
    copied(PLACE / "image", PLACE / "cut")
    os.kill(pid, signal.SIGCONT)
    mount(PLACE / "cut", PLACE / "after", options)
    epoch, rows = found(PLACE / "after")
    same = goes_on(PLACE / "after", epoch) if epoch else None
    subprocess.run(["umount", PLACE / "after"], check=True)
    return {"said": before, "epoch": epoch, "rows": rows, "same": same}


def main(cuts, options):
    image, disk = PLACE / "image", PLACE / "disk"
    image.write_bytes(bytes(32 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    mount(image, disk, options)
    told, tell = os.pipe()
    os.set_blocking(told, False)
    pid = os.fork()
    if not pid:
        train(disk, tell)
    results, before = [], 0
    for _ in range(cuts):
        results.append(cut(pid, told, before, options))
        before = results[-1]["said"]
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    PLACE = Path(sys.argv[1])
    main(int(sys.argv[2]), sys.argv[3])
