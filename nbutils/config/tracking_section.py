"""Where a run can be watched from: the settings of the tracking services."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from nbutils.config.leaf import STORE, Section, leaf
from nbutils.config.texts import one_text, texts

__all__ = ["TrackingSection"]


class TrackingSection(Section):
    """Where the run can be watched from."""

    tracker: Annotated[
        Literal["none", "wandb", "tensorboard", "wandb,tensorboard"],
        BeforeValidator(one_text),
    ] = leaf(
        "none",
        "Services that mirror the run's events; several: a list.",
        STORE,
        accepts="one of 'none', 'wandb', 'tensorboard', or a list of them",
    )
    project: str = leaf("nbutils", "Project name at the tracker.", STORE)
    run_name: str | None = leaf(None, "Name of the run and its folder.", STORE)
    wandb_mode: Literal["auto", "online", "offline", "disabled"] = leaf(
        "auto", "W&B: auto is online with a key, else offline.", STORE, advanced=True
    )
    group: str | None = leaf(
        None, "W&B: runs of one group are shown together.", STORE, advanced=True
    )
    tags: Annotated[tuple[str, ...], BeforeValidator(texts)] = leaf(
        (),
        "W&B: words to find the run by.",
        STORE,
        advanced=True,
        accepts="a list of words",
    )
    notes: str | None = leaf(None, "W&B: what this run is about.", STORE, advanced=True)
    job_type: str = leaf(
        "train", "W&B: what the run does in its group.", STORE, advanced=True
    )
    upload: Annotated[
        tuple[Literal["figures", "report", "model"], ...], BeforeValidator(texts)
    ] = leaf(
        (),
        "W&B: files to upload when the run ends.",
        STORE,
        advanced=True,
        accepts="a list of 'figures', 'report' and 'model' (the best one)",
    )
    max_upload_mb: float = leaf(
        100.0, "Upload at most so much.", STORE, unit="MB", advanced=True, gt=0
    )
    alerts: bool = leaf(
        False,
        "W&B: send an alert when the run diverges, fails or ends.",
        STORE,
        advanced=True,
    )
