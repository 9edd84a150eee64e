"""A training on disk and back: what a checkpoint holds, and whether it fits."""
