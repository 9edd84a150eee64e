"""Draw the pictures that README shows, from the examples themselves.

Command:  python docs/draw.py [FOLDER]      (default: the folder of this file)
"""

from __future__ import annotations

import sys
from pathlib import Path

from experimentator import build_experiment, diagram
from experimentator.graph import difference

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"


def draw(folder: Path) -> list[Path]:
    """Write every picture into a folder; returns their paths."""
    digits = build_experiment(EXAMPLES / "digits.py")
    pairs = build_experiment(EXAMPLES / "digit_pairs.py")
    pictures = {
        "digits": digits.describe("train"),
        "digits_train_to_eval": difference(digits.describe("train"), digits.describe("eval")),
        "digits_plan": digits.describe("train", "batch_probabilities", view="plan"),
        "digit_pairs": pairs.describe("train"),
    }
    for name, picture in pictures.items():
        diagram.save(picture, folder / f"{name}.svg")
    return [folder / f"{name}.svg" for name in pictures]


if __name__ == "__main__":
    for path in draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE):
        print(path)
