"""`python -m experimentator CONFIG --epochs 10`: the command line."""

from __future__ import annotations

import sys

from experimentator.cli import main

if __name__ == "__main__":
    sys.exit(main())
