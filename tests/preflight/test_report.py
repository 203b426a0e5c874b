"""The report, the error it raises and the verdict it leaves."""

from __future__ import annotations

import json
from html import escape

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nbutils as nb
from nbutils.preflight import (
    Check,
    Finding,
    PreflightReport,
    preflight,
    verdict_is_current,
)
from nbutils.preflight.check import Claims
from nbutils.preflight.gate import demand_verdict
from nbutils.preflight.report import failure_message


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
        assert finding.id in str(report)
        assert escape(finding.title.split(";")[0]) in report.html
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
    assert reason == (
        "changed since the last preflight: the setting lr was 0.001, is now 0.5"
    )
    assert verdict_is_current(task, config.replace(lr=1e-3))[0]


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
    assert set(report.verdict) == {
        "passed", "fingerprint", "parts", "depth", "time", "ids",
    }  # fmt: skip
    assert set(report.verdict["parts"]) == {"config", "model", "code", "data"}


def twin(task: nb.Task, **changes) -> nb.Task:
    """A task with the verdict of another."""
    given = {"model": task.model, "loss": task.loss, "train_data": task.train_data}
    made = nb.Task(**{**given, "val_data": task.val_data, **changes})
    made.verdict = task.verdict
    return made


def other_loss(outputs, batch):
    return F.cross_entropy(outputs, batch[1]) * 2


def test_verdict_says_exactly_what_changed():
    task, config = build(), nb.RunConfig()
    preflight(task, config)
    x, y = torch.ones(12, 6), torch.arange(12) % 3
    cases = {
        "the code of loss": twin(task, loss=other_loss),
        "the code of metrics": twin(task, metrics={"double": other_loss}),
        "the code of make_optimizer": twin(
            task, make_optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.1)
        ),
        "the data of 'val'": twin(task, val_data=(x, y)),
        "the model: its class, its code or its parameters": twin(
            task, model=nn.Linear(6, 3, bias=False)
        ),
    }
    for text, changed in cases.items():
        current, reason = verdict_is_current(changed, config)
        assert not current
        assert reason == f"changed since the last preflight: {text}"
    assert verdict_is_current(twin(task), config)[0]
    many = config.replace(lr=1.0, epochs=2, seed=3, batch_size=4, momentum=0.1)
    assert "and 1 more" in verdict_is_current(task, many)[1]


def test_verdict_without_its_parts_is_not_current():
    task, config = build(), nb.RunConfig()
    preflight(task, config)
    task.verdict = {**task.verdict, "fingerprint": ""}
    assert "cut short" in verdict_is_current(task, config)[1]
    task.verdict = {**task.verdict, "fingerprint": "0" * 16, "parts": {}}
    assert "config, code or data" in verdict_is_current(task, config)[1]


def test_gate_says_in_one_line_why_preflight_runs_again(capsys):
    task, config = build(), nb.RunConfig()
    demand_verdict(task, config)
    assert capsys.readouterr().out == ""
    demand_verdict(task, config.replace(lr=0.01))
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "preflight runs again: changed since the last preflight: the setting lr was "
        "0.001, is now 0.01"
    ]
    demand_verdict(task, config.replace(lr=0.01))
    assert capsys.readouterr().out == ""


# -- the card ------------------------------------------------------------------


def finding(severity: str, name: str = "R1", **more) -> Finding:
    return Finding(id=name, severity=severity, title=f"{name} {severity}", **more)


def test_card_folds_what_passed_and_what_was_skipped():
    found = [
        finding("fail", "R4", expected="(B, 3)", actual="(B, 4)", fix="Mend.", why="w"),
        finding("warn", "R5", actual="9", details=(("shape", "(3,)"),)),
        Finding(id="R6", severity="skip", title="Steps: not judged, R4 did not pass"),
        Finding(id="R9", severity="skip", title="needs two samples"),
        finding("pass", "S1", cost_s=1.0),
        finding("pass", "S2", cost_s=2.25),
    ]
    report = PreflightReport(found, {"depth": "standard"}, "Net")
    assert report.text.splitlines() == [
        "✗ fail  Preflight of Net: 1 failed, 1 to look at, 2 skipped, 2 passed in "
        "3.2 s (standard: up to 60 s)",
        "  ✗ fail  R4  R4 fail",
        "          expected  (B, 3)",
        "          actual    (B, 4)",
        "          fix       Mend.",
        "  ! warn  R5  R5 warn",
        "          actual  9",
        "  – skip  2 skipped: R6 R9",
        "          R9  needs two samples",
        "  ✓ pass  2 passed in 3.2 s: S1 S2",
    ]
    html = report.html
    assert (
        html.index("R4 fail")
        < html.index("R5 warn")
        < html.index("2 passed in 3.2 s: S1")
    )
    summary = html.split("2 passed in 3.2 s: S1")[1].split("</summary>")[0]
    assert "S1 pass" not in summary
    assert "S1 pass" in html
    for text in ("Mend.", "(B, 4)"):
        assert text in html.split("R4 fail")[1].split("</summary>")[0]
    assert html.count("<details") == html.count("</details>")


def test_card_shows_each_claim_of_a_check_on_a_row_of_its_own():
    claims = Claims()
    for number in range(3):
        claims.add("warn", f"claim {number}", actual=f"<{number}>", fix="Mend.")
    claims.add("pass", "one is right")
    check = Check(id="R1", title="Data", why="w", run=lambda probe, claims: None)
    made = claims.finding(check)
    assert [part.title for part in made.parts] == ["claim 0", "claim 1", "claim 2"]
    report = PreflightReport([made], {"depth": "rehearsal"})
    assert "3 to look at, 0 passed in 0.0 s" in report.text.splitlines()[0]
    assert "up to" not in report.text
    assert report.text.count("! warn  R1") == 3
    assert "&lt;2&gt;" in report.html
    assert len(json.loads(report.json())["findings"][0]["parts"]) == 3


def test_failure_message_tells_each_claim():
    claims = Claims()
    claims.add("fail", "first", expected="1", actual="2", fix="a")
    claims.add("fail", "second", expected="3", actual="4", fix="b")
    check = Check(id="R1", title="Data", why="w", run=lambda probe, claims: None)
    text = failure_message(PreflightReport([claims.finding(check)]))
    assert "1 preflight check failed" in text
    assert text.index("R1: first") < text.index("2") < text.index("R1: second")
