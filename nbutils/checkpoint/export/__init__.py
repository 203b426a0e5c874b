"""Export: the model in formats of other programs, each read back and compared."""

from __future__ import annotations

from nbutils.checkpoint.export.example import Call, Example
from nbutils.checkpoint.export.exported import Exported
from nbutils.checkpoint.export.files import save_weights
from nbutils.checkpoint.export.writer import export_model, export_task

__all__ = ["Call", "Example", "Exported", "export_model", "export_task", "save_weights"]
