"""Callbacks: what happens at the begin and end of epochs, cycles and batches."""

from experimentator.callbacks.callback import Callback
from experimentator.callbacks.order import CallbackError

__all__ = ["Callback", "CallbackError"]
