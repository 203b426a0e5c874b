"""``preflight``: run the checks, show the card, stop the notebook on a failure."""

from __future__ import annotations

from typing import Any

from nbutils.config import RunConfig
from nbutils.errors import ConfigError, PreflightError
from nbutils.monitor.display import show
from nbutils.preflight.checks import CATALOGUE
from nbutils.preflight.report import PreflightReport, failure_message
from nbutils.preflight.session import INTERRUPTED, run_checks
from nbutils.preflight.verdict import fingerprints, make_verdict

__all__ = ["preflight"]

OUTCOMES = ("raise", "return")


def preflight(
    task: Any,
    config: RunConfig | None = None,
    *,
    depth: str = "standard",
    on_failure: str = "raise",
    **overrides: Any,
) -> PreflightReport:
    """Prove a task before it is trained; leaves it exactly as it was.

    Args:
        task: What is to be trained.
        config: How; by default the task's own, else the defaults.
        depth: ``"static"`` reads no data; ``"standard"`` tries batches and steps;
            ``"rehearsal"`` also runs the real loop for a few windows, accumulates,
            saves and resumes, in a temporary folder.
        on_failure: ``"raise"`` shows the card and raises; ``"return"`` only returns.
        **overrides: Settings, such as ``batch_size=8``.

    Returns:
        The report; also kept as ``task.report``, its verdict as ``task.verdict``.

    Raises:
        ConfigError: An unknown depth, outcome or setting.
        PreflightError: A check failed, and ``on_failure`` is ``"raise"``.
    """
    if on_failure not in OUTCOMES:
        raise ConfigError(
            [f"on_failure is {on_failure!r}; it must be 'raise' or 'return'."]
        )
    base: RunConfig = config or task.config or RunConfig()
    config = base.replace(**overrides) if overrides else base
    if task.config is None:
        task.smooth_labels(config.loss.label_smoothing)
    findings = run_checks(task, config, CATALOGUE, depth)
    is_told = depth != "static" and _can_identify(findings)
    parts = fingerprints(task, config) if is_told else {}
    verdict = make_verdict(findings, parts, depth)
    report = PreflightReport(findings, verdict, task.name)
    task.verdict, task.report = verdict, report
    if not report.passed and on_failure == "raise":
        show(report)
        raise PreflightError(failure_message(report), report)
    return report


def _can_identify(findings: Any) -> bool:
    """The fingerprint reads a sample of each split: only if samples can be read."""
    return all(
        (finding.severity != "fail" or finding.id not in ("R2", "R3"))
        and INTERRUPTED not in dict(finding.details)
        for finding in findings
    )
