"""The bench: a training measured on the machine at hand, and what to change about it."""
