"""A setting of a run: its default, its help, its bounds, its page in the wizard."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DATA", "MODEL", "STORE", "TRAIN", "Section", "Step", "leaf"]

Step = Literal["Data", "Model", "Training", "Tracking & storage"]
DATA, MODEL, TRAIN, STORE = "Data", "Model", "Training", "Tracking & storage"


class Section(BaseModel):
    """A group of settings; immutable, and no unknown key passes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


def leaf(
    default: Any,
    help_text: str,
    step: str,
    *,
    unit: str = "",
    advanced: bool = False,
    accepts: str = "",
    **bounds: Any,
) -> Any:
    """A field with its help, wizard page and bounds; ``accepts``: its type in words."""
    hints: dict[str, Any] = {"step": step, "unit": unit, "advanced": advanced}
    if accepts:
        hints["accepts"] = accepts
    return Field(default, description=help_text, json_schema_extra=hints, **bounds)
