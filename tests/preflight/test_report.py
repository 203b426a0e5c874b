"""The report, the error it raises and the verdict it leaves."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import nbutils as nb
from nbutils.preflight import preflight, verdict_is_current


def build(width: int = 6) -> nb.Task:
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    return nb.Task(nn.Linear(width, 3), nn.CrossEntropyLoss(), (x, y), (x, y))


def test_preflight_failure_raises_with_expected_actual_and_fix(capsys):
    with pytest.raises(nb.PreflightError, match="1 preflight check failed") as caught:
        preflight(build(5))
    text = str(caught.value)
    for part in ("R4:", "expected:", "actual:", "fix:", "float32 (12, 6)"):
        assert part in text
    assert not caught.value.report.passed
    assert "R4" in capsys.readouterr().out


def test_preflight_on_failure_return_shows_nothing(capsys):
    assert not preflight(build(5), on_failure="return").passed
    assert capsys.readouterr().out == ""


def test_preflight_unknown_depth_names_those_that_exist():
    with pytest.raises(nb.ConfigError, match="'static', 'standard'"):
        preflight(build(), depth="thorough")


def test_preflight_unknown_outcome_is_refused():
    with pytest.raises(nb.ConfigError, match="must be 'raise' or 'return'"):
        preflight(build(), on_failure="ignore")


def test_preflight_unknown_override_is_refused():
    with pytest.raises(nb.ConfigError, match="batch_size"):
        preflight(build(), batch_sise=3)


def test_report_views_hold_every_finding(tmp_path):
    report = preflight(build())
    body = json.loads(report.json())
    assert [f["id"] for f in body["findings"]] == [f.id for f in report.findings]
    assert body["verdict"] == report.verdict
    for finding in report.findings:
        assert finding.id in report.text
        assert finding.title.split(";")[0] in str(report)
    assert report._repr_html_() == report.html
    folder = report.save(tmp_path / "run")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["preflight.html", "preflight.json"]


def test_report_text_from_the_user_is_escaped():
    def loss(outputs, batch):
        raise ValueError("<script>alert(1)</script>")

    task = build()
    task = nb.Task(task.model, loss, task.train_data)
    html = preflight(task, on_failure="return").html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_verdict_holds_until_something_changes():
    task, config = build(), nb.RunConfig()
    assert verdict_is_current(task, config) == (
        False, "preflight has not run for this task",
    )  # fmt: skip
    preflight(task, config)
    assert verdict_is_current(task, config)[0]
    assert verdict_is_current(task, config.replace(runs_dir="elsewhere"))[0]
    current, reason = verdict_is_current(task, config.replace(lr=0.5))
    assert not current
    assert "changed" in reason


def test_verdict_of_a_failure_or_a_static_look_does_not_count():
    task = build(5)
    preflight(task, on_failure="return")
    assert "failed: R4" in verdict_is_current(task, nb.RunConfig())[1]
    task = build()
    preflight(task, depth="static")
    assert "static" in verdict_is_current(task, nb.RunConfig())[1]


def test_verdict_is_plain_data():
    task = build()
    report = preflight(task)
    assert task.verdict == json.loads(json.dumps(report.verdict))
    assert set(report.verdict) == {"passed", "fingerprint", "depth", "time", "ids"}
