"""What to type where a framework is missing."""

from __future__ import annotations

EXTRAS = {
    "tensorflow": " (or [tensorflow-cpu], or [cuda] for NVIDIA GPUs)",
    "jax": " (or [jax-cuda] for NVIDIA GPUs)",
    "torch": "",
}
OF = {"tensorflow": "tensorflow", "keras": "tensorflow", "jax": "jax", "jaxlib": "jax", "torch": "torch"}


def to_type(package: str | None) -> str:
    """The command that brings a framework; empty for packages that are none.

    >>> to_type("jaxlib")
    'Type: pip install "experimentator-dl[jax]" (or [jax-cuda] for NVIDIA GPUs).'
    """
    extra = OF.get(package or "")
    return f'Type: pip install "experimentator-dl[{extra}]"{EXTRAS[extra]}.' if extra else ""
