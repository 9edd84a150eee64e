"""Notes on errors of PyTorch: what to write."""

from __future__ import annotations

import re

# Parts of PyTorch's messages where a numpy array meets a tensor, where two dtypes meet in a product, where integers
# have 32 bits and not 64, and where a gradient is asked for although none is recorded, as in an evaluation.
OF_NUMPY = r"requires grad\. Use tensor\.detach\(\)\.numpy\(\)|not numpy\.ndarray"
OF_DTYPES = (
    r"m\w+ (to|must) have the same dtype|scalar type (torch\.b?float|Half|BFloat16|Float|Double)|\) should be the same"
)
OF_LONG = r"dtype to be Long|scalar type Long|dtype int64 for index|index tensor of type"
OF_GRADIENT = r"does not require grad and does not have a grad_fn"
CURES = {
    OF_NUMPY: "A tensor of PyTorch meets numpy there: write the function of keras.ops instead, or "
    "keras.ops.convert_to_tensor(array).",
    OF_DTYPES: "PyTorch casts nothing where it multiplies matrices: write keras.ops.cast(one, other.dtype), or the "
    "function of keras.ops, which casts: keras.ops.matmul(one, other).",
    OF_LONG: 'PyTorch takes classes and places as int64: list ops.Cast(NAME, "int64") before it, with the name of the '
    "classes.",
    OF_GRADIENT: "Only what is trained is recorded for gradients, and nothing in an evaluation: write "
    "experimentator.gradient(function, tensor), which is a gradient in every mode.",
}


def add_cures(error: Exception) -> None:
    """Note what to write, where the message is known."""
    for message, cure in CURES.items():
        if re.search(message, str(error)):
            error.add_note(cure)
