"""What is known of a run before its first step."""

from __future__ import annotations

from typing import Any

from nbutils.train.prepare import count_parameters

__all__ = ["run_facts"]


def run_facts(session: Any) -> dict[str, Any]:
    """What the ``run_start`` event tells about a run, from its session."""
    train, precision = session.config.train, session.precision
    return {
        "epochs": session.plan.epochs,
        "amp": not precision.is_plain,
        "precision": precision.kind,
        "precision_requested": session.config.precision.precision,
        "precision_reason": precision.reason,
        "device": str(session.device),
        "num_parameters": count_parameters(session.task.model),
        "update": session.update_reason,
        "optimizer": session.optimizer_choice.name,
        "optimizer_reason": session.optimizer_choice.reason,
        "ema_decay": session.config.optim.ema_decay,
        "patience": train.patience,
        "target": train.target,
        "monitor": train.monitor,
        "mode": train.mode,
        "max_hours": train.max_hours,
    }
