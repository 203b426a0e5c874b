"""What preflight does not name yet, and warnings on twins that a person would share."""

from __future__ import annotations

NOT_CAUGHT: dict[str, str] = {}
"""Fault -> why it is not named. The test fails when one of them is named after all."""

MAY_WARN: dict[str, dict[str, str]] = {
    "dummy_images": {"S5": "the reader would invent a sample, were one broken"},
    "some_dummy_images": {"S5": "the reader would invent a sample, were one broken"},
    "loss_replaced_by_constant": {
        "S5": "the loss would swallow an exception, were there one",
        "R11": "the loss would swallow an exception, were there one",
    },
    "pattern_matches_everything": {"R6": "one layer rests, by lr_groups, undeclared"},
    "report_of_absent_classes": {"R1": "a third of the classes is in no val sample"},
    "monte_carlo_dropout": {"R4": "random in eval, undeclared"},
}
"""Program -> check -> why its warning is right."""
