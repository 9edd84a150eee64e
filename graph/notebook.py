"""What a notebook shows of a graph: the picture, and the table where no picture can be shown or drawn."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experimentator.graph.description import Description


def svg(description: Description) -> str | None:
    """The picture as SVG; None where there is none."""
    return mimebundle(description).get("image/svg+xml")


def mimebundle(description: Description) -> dict[str, str]:
    """The picture as SVG and the table as text; without a picture, the text says why."""
    diagram: Any = import_module("experimentator.diagram")  # by name: this room imports no other
    try:
        return {"image/svg+xml": diagram.picture(description).decode(), "text/plain": str(description)}
    except diagram.DiagramError as error:
        return {"text/plain": f"{description}\n\n{error}"}
