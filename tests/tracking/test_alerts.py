"""What is worth a message, and what is in it."""

from __future__ import annotations

from typing import Any

import pytest

from nbutils.tracking.alerts import Alert, alert_of


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            {
                "kind": "watchdog",
                "severity": "serious",
                "id": "W2",
                "step": 3,
                "text": "n",
            },
            Alert("WARN", "owl: watchdog W2", "step 3: n"),
        ),
        ({"kind": "watchdog", "severity": "warning", "id": "W7", "text": "n"}, None),
        (
            {"kind": "rollback", "reason": "3 refusals in a row"},
            Alert("WARN", "owl: rolled back", "3 refusals in a row"),
        ),
        (
            {"kind": "run_end", "status": "failed", "reason": "NonFiniteStepError: x"},
            Alert("ERROR", "owl: failed", "NonFiniteStepError: x"),
        ),
        (
            {"kind": "run_end", "status": "finished", "reason": "completed"},
            Alert("INFO", "owl: finished", "completed"),
        ),
        (
            {"kind": "alert", "level": "error", "title": "disk", "text": "is full"},
            Alert("ERROR", "disk", "is full"),
        ),
        ({"kind": "step", "step": 1}, None),
    ],
)
def test_alert_of_each_kind(event: dict[str, Any], expected: Alert | None) -> None:
    assert alert_of(event, "owl") == expected


def test_alert_of_long_texts_fits_and_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "5ecret5ecret")
    text = "5ecret5ecret " * 1000
    found = alert_of({"kind": "alert", "title": "t" * 99, "text": text}, "owl")
    assert found is not None
    assert len(found.title) < 64
    assert len(found.text) <= 2000
    assert "5ecret" not in found.text
