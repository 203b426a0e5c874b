"""Data: what a task is, what a batch is, and the loaders between them."""

from nbutils.data.batch import batch_size, describe, tensors, to_device
from nbutils.data.collate import collate
from nbutils.data.contract import Contract
from nbutils.data.loader import Loader
from nbutils.data.loaders import make_loader
from nbutils.data.order import epoch_order
from nbutils.data.task import Task

__all__ = [
    "Contract",
    "Loader",
    "Task",
    "batch_size",
    "collate",
    "describe",
    "epoch_order",
    "make_loader",
    "tensors",
    "to_device",
]
