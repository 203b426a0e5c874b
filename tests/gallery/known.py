"""What preflight does not name yet, and warnings on twins that a person would share."""

from __future__ import annotations

NOT_CAUGHT: dict[str, str] = {}
"""Fault -> why it is not named. The test fails when one of them is named after all."""

MAY_WARN: dict[str, dict[str, str]] = {}
"""Twin -> check -> why its warning is right."""
