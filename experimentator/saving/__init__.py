"""Checkpoints and weights: what is saved of a training, and whether it fits the experiment that loads it."""
