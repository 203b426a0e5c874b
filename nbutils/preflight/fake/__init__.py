"""A step on fake tensors: shapes, dtypes and memory of a model that is not computed.

A fake tensor knows its shape, dtype and device and has no values. So a model of any
size can be walked through on a laptop; what depends on values cannot be seen.
"""

from nbutils.preflight.fake.cards import CARDS, card_table
from nbutils.preflight.fake.plan import MemoryPlan, optimizer_bytes
from nbutils.preflight.fake.room import TooLarge, obstacle

__all__ = [
    "CARDS",
    "MemoryPlan",
    "TooLarge",
    "card_table",
    "obstacle",
    "optimizer_bytes",
]
