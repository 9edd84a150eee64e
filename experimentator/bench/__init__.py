"""The bench: measures a training on this machine, and says what to change about it."""
