"""The pip commands that install a missing framework."""

from __future__ import annotations

EXTRAS = {
    "tensorflow": " (or [tensorflow-cpu], or [cuda] for NVIDIA GPUs)",
    "jax": " (or [jax-cuda] for NVIDIA GPUs)",
    "torch": "",
}
OF = {"tensorflow": "tensorflow", "keras": "tensorflow", "jax": "jax", "jaxlib": "jax", "torch": "torch"}


def to_type(package: str | None) -> str:
    """The command that installs the framework of a package, as a sentence; empty for other packages.

    >>> to_type("jaxlib")
    'Type: pip install "experimentator-dl[jax]" (or [jax-cuda] for NVIDIA GPUs).'
    """
    extra = OF.get(package or "")
    return f'Type: pip install "experimentator-dl[{extra}]"{EXTRAS[extra]}.' if extra else ""
