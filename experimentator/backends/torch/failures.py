"""Notes on errors of PyTorch: what to write."""

from __future__ import annotations

import re

# Parts of PyTorch's messages where a numpy array meets a tensor, where two dtypes meet in a product, where integers
# have 32 bits and not 64, and where a gradient is asked for although none is recorded, as in an evaluation.
OF_NUMPY = re.compile(r"requires grad\. Use tensor\.detach\(\)\.numpy\(\)|not numpy\.ndarray")
OF_DTYPES = re.compile(
    r"m\w+ (to|must) have the same dtype|scalar type (torch\.b?float|Half|BFloat16|Float|Double)|\) should be the same"
)
OF_LONG = re.compile(r"dtype to be Long|scalar type Long|dtype int64 for index|index tensor of type")
OF_GRADIENT = re.compile(r"does not require grad and does not have a grad_fn")


def add_cures(error: Exception) -> None:
    """Note what to write, where the message is known."""
    if OF_NUMPY.search(str(error)):
        change = "write the function of keras.ops instead, or keras.ops.convert_to_tensor(array)"
        error.add_note(f"A tensor of PyTorch meets numpy there: {change}.")
    if OF_DTYPES.search(str(error)):
        change = (
            "keras.ops.cast(one, other.dtype), or the function of keras.ops, which casts: keras.ops.matmul(one, other)"
        )
        error.add_note(f"PyTorch casts nothing where it multiplies matrices: write {change}.")
    if OF_LONG.search(str(error)):
        change = 'list ops.Cast(NAME, "int64") before it, with the name of the classes'
        error.add_note(f"PyTorch takes classes and places as int64: {change}.")
    if OF_GRADIENT.search(str(error)):
        change = "experimentator.gradient(function, tensor), which is a gradient in every mode"
        error.add_note(f"Only what is trained is recorded for gradients, and nothing in an evaluation: write {change}.")
