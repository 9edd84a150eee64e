"""Colours of pictures, light and dark, after Okabe and Ito: told apart by colour-blind eyes too.

What matters is also said by a mark, a line or a word: no picture needs its colours.
"""

from __future__ import annotations

from collections.abc import Mapping

from experimentator.graph.description import DescriptionError

# Each light colour occurs once, so that a style sheet can map it to its dark partner. None has an SVG keyword:
# Graphviz would write the keyword.
COLORS: Mapping[str, tuple[str, str]] = {
    "page": ("#fefefd", "#15191d"),
    "ink": ("#1d2125", "#e4e8eb"),
    "faint": ("#57606a", "#9aa7b2"),
    "line": ("#66717b", "#7d8994"),
    "edge": ("#6b7680", "#87939e"),
    "processor": ("#f3f5f7", "#262c32"),
    "layer": ("#d9f0e6", "#12402f"),
    "layer line": ("#00805d", "#2fc495"),
    "code": ("#faf5c8", "#45401a"),
    "code line": ("#8a7d00", "#d8cb3c"),
    "input": ("#d5e9f7", "#123a55"),
    "input line": ("#0072b2", "#56b4e9"),
    "missing": ("#fdfdfc", "#15191e"),
    "missing line": ("#c8102e", "#ff6f6f"),
    "output": ("#fdecc8", "#4d390c"),
    "output line": ("#a86f00", "#e69f00"),
    "loss": ("#fadccb", "#54250c"),
    "loss line": ("#c65300", "#ff8b4a"),
    "metric": ("#f5e0ec", "#472338"),
    "metric line": ("#a84f82", "#e09cc3"),
    "group": ("#f8f9fa", "#1c2126"),
    "group line": ("#aab4bd", "#4c565f"),
    "added": ("#00754a", "#35c99a"),
    "added fill": ("#d2f2e4", "#0f3d2f"),
    "removed": ("#b84a00", "#ff9455"),
    "removed fill": ("#fbe3d5", "#4a230f"),
    "changed": ("#0067a3", "#63bdf0"),
    "changed fill": ("#dcecf8", "#16364d"),
    "pruned": ("#b4bbc1", "#50585f"),
    "pruned fill": ("#fbfbfa", "#191d22"),
    "pruned ink": ("#6a737b", "#8f99a2"),
    "failed": ("#f7b494", "#7a2f0a"),
    "warning": ("#f6ea8f", "#5c5209"),
    "heat 0": ("#fff8ea", "#24211c"),
    "heat 1": ("#fde6b8", "#3f2f15"),
    "heat 2": ("#fccd85", "#5f4110"),
    "heat 3": ("#f8aa5c", "#80500a"),
    "heat 4": ("#f08a3e", "#a35f02"),
}
HEATS = 5


def colors(theme: str) -> Mapping[str, str]:
    """The colours of a theme, light or dark, by what they are for.

    >>> colors("light")["input line"], colors("dark")["input line"]
    ('#0072b2', '#56b4e9')
    """
    if theme not in ("light", "dark"):
        known = "Write 'light' or 'dark' ('auto' too, where the picture is drawn)."
        raise DescriptionError("There is no such theme.", seen=repr(theme), write=known)
    return {use: pair[theme == "dark"] for use, pair in COLORS.items()}


def style_sheet() -> str:
    """CSS that gives a light SVG its dark colours where the reader's screen is dark.

    >>> '[fill="#d5e9f7"]{fill:#123a55}' in style_sheet()
    True
    """
    rules = [f'[{what}="{light}"]{{{what}:{dark}}}' for light, dark in COLORS.values() for what in ("fill", "stroke")]
    return f"@media (prefers-color-scheme: dark){{{''.join(rules)}}}"
