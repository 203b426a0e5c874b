"""A run's log tells the whole story, and leaves the user's logging as it was."""

from __future__ import annotations

import gc
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nbutils as nb
from nbutils.monitor.events import EventLog
from nbutils.monitor.loglines import log_line
from nbutils.monitor.redact import HIDDEN, redact
from nbutils.monitor.runlog import RunLog, log_name, run_log
from nbutils.testing import make_task

ROOT = logging.getLogger()
OURS = logging.getLogger("nbutils")


def setup() -> dict[str, Any]:
    """Everything of the process that a log could leave changed."""
    return {
        "root": (ROOT.level, list(ROOT.handlers), list(ROOT.filters), ROOT.disabled),
        "ours": (OURS.level, list(OURS.handlers), list(OURS.filters), OURS.propagate),
        "showwarning": warnings.showwarning,
        "disable": logging.root.manager.disable,
    }


@contextmanager
def no_handlers() -> Iterator[None]:
    """The root without pytest's own handlers, as in a fresh kernel."""
    handlers = list(ROOT.handlers)
    ROOT.handlers[:] = []
    yield
    ROOT.handlers[:] = handlers


def open_files() -> set[str]:
    gc.collect()
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("no /proc on this system")
    links = [str(path) for path in folder.iterdir()]
    found = set()
    for link in links:
        try:
            found.add(os.readlink(link))
        except OSError:  # the listing's own
            continue
    return found


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_file_gets_info_of_ours_and_warnings_of_all(tmp_path: Path) -> None:
    with run_log(tmp_path):
        logging.getLogger("nbutils.deep.inside").info("one of %s", "ours")
        logging.getLogger("nbutils").debug("too fine")
        logging.getLogger("library").warning("library warns")
        logging.getLogger("library").info("library chatters")
        logging.warning("root warns")
    text = (tmp_path / "run.log").read_text()
    assert "INFO    nbutils.deep.inside: one of ours" in text
    assert "WARNING library: library warns" in text
    assert "WARNING root: root warns" in text
    assert "too fine" not in text
    assert "chatters" not in text
    assert lines(tmp_path / "run.log")[0].count("nbutils.run: run directory") == 1


def test_each_record_is_one_line(tmp_path: Path) -> None:
    with run_log(tmp_path) as log:
        OURS.warning("ours, once")
        logging.getLogger("other").error("other, once")
        log.tell(logging.WARNING, "told, once")
    text = (tmp_path / "run.log").read_text()
    for part in ("ours, once", "other, once", "told, once"):
        assert text.count(part) == 1


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG, logging.ERROR])
def test_users_setup_is_the_same_after_every_way_out(
    tmp_path: Path, level: int
) -> None:
    OURS.setLevel(level)
    try:
        before = setup()
        with run_log(tmp_path):
            pass
        assert setup() == before
        with pytest.raises(KeyboardInterrupt), run_log(tmp_path):
            raise KeyboardInterrupt
        assert setup() == before
    finally:
        OURS.setLevel(logging.NOTSET)


def test_users_handlers_get_what_they_got_before(tmp_path: Path) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    ROOT.addHandler(handler)
    try:
        with run_log(tmp_path) as log:
            OURS.info("info of ours")
            OURS.warning("warning of ours")
            log.tell(logging.INFO, "told info")
            log.tell(logging.WARNING, "told warning")
    finally:
        ROOT.removeHandler(handler)
    assert stream.getvalue().splitlines() == ["warning of ours", "told warning"]
    text = (tmp_path / "run.log").read_text()
    assert "info of ours" in text
    assert "told info" in text


def test_users_who_ask_for_info_get_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), run_log(tmp_path) as log:
        OURS.info("info of ours")
        log.tell(logging.INFO, "told info")
    said = [record.getMessage() for record in caplog.records]
    assert said.count("info of ours") == 1
    assert said.count("told info") == 1


def test_level_that_the_user_gave_ours_holds(tmp_path: Path) -> None:
    OURS.setLevel(logging.ERROR)
    try:
        with run_log(tmp_path) as log:
            OURS.warning("turned down")
            log.tell(logging.INFO, "the story goes on")
    finally:
        OURS.setLevel(logging.NOTSET)
    text = (tmp_path / "run.log").read_text()
    assert "turned down" not in text
    assert "the story goes on" in text


def test_console_shows_warnings_once_and_no_info(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_handlers(), run_log(tmp_path) as log:
        OURS.info("info of ours")
        OURS.warning("warning of ours")
        logging.getLogger("library").error("library fails")
        log.tell(logging.WARNING, "the panel shows this")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "WARNING nbutils: warning of ours",
        "ERROR library: library fails",
    ]


def test_console_is_silent_where_the_user_has_a_handler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    with no_handlers(), run_log(tmp_path):
        ROOT.addHandler(handler)
        OURS.warning("theirs")
        ROOT.removeHandler(handler)
        OURS.warning("ours")
    assert stream.getvalue() == "theirs\n"
    assert capsys.readouterr().err == "WARNING nbutils: ours\n"


def test_warnings_are_written_and_still_shown(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with run_log(tmp_path):
            warnings.warn("old way", DeprecationWarning, stacklevel=1)
        warnings.warn("after the run", UserWarning, stacklevel=1)
    assert [str(item.message) for item in shown] == ["old way", "after the run"]
    text = (tmp_path / "run.log").read_text()
    assert "WARNING py.warnings: DeprecationWarning: old way (" in text
    assert "after the run" not in text


def test_warnings_hook_of_another_one_is_left_in_place(tmp_path: Path) -> None:
    before, seen = warnings.showwarning, []
    warnings.showwarning = lambda *args, **more: None
    try:
        with run_log(tmp_path):
            inner = warnings.showwarning

            def theirs(*args: Any, **more: Any) -> None:
                seen.append(str(args[0]))
                inner(*args, **more)

            warnings.showwarning = theirs
        assert warnings.showwarning is theirs
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("late", UserWarning, stacklevel=1)
    finally:
        warnings.showwarning = before
    assert seen == ["late"]
    assert "late" not in (tmp_path / "run.log").read_text()


def test_error_lands_with_traceback_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    monkeypatch.setenv("MY_SERVICE_TOKEN", "t-9988776655")

    def fail() -> None:
        with run_log(tmp_path):
            OURS.warning("header %s", {"key": "t-9988776655"})
            raise ValueError("bad key 0123456789abcdef0123")

    with pytest.raises(ValueError, match="bad"):
        fail()
    text = (tmp_path / "run.log").read_text()
    assert "ERROR   nbutils.run: the run ends with ValueError" in text
    assert "Traceback (most recent call last):" in text
    assert f"ValueError: bad key {HIDDEN}" in text
    assert "0123456789abcdef0123" not in text
    assert "t-9988776655" not in text


def test_redact_knows_names_shapes_and_addresses() -> None:
    environ = {"AWS_SECRET_ACCESS_KEY": "abcd1234efgh", "DEBUG_KEY": "true", "A": "abc"}
    assert redact("x abcd1234efgh y", environ) == f"x {HIDDEN} y"
    assert redact("it is true", environ) == "it is true"
    assert redact("hf_" + "a1" * 15, {}) == HIDDEN
    assert redact("https://me:pass-word@host/x", {}) == f"https://me:{HIDDEN}@host/x"
    assert redact("Authorization: Bearer abcdefghij", {}).endswith(f"Bearer {HIDDEN}")
    assert redact("monkey key token", {}) == "monkey key token"


def test_redact_leaves_the_path_of_a_key_file(tmp_path: Path) -> None:
    path = str(tmp_path)
    assert redact(f"read {path}", {"SSH_KEY": path}) == f"read {path}"


def test_rank_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_name() == "run.log"
    monkeypatch.setenv("RANK", "1")
    with run_log(tmp_path):
        OURS.info("second process")
    assert [path.name for path in tmp_path.iterdir()] == ["run.rank1.log"]


def test_runs_within_runs_keep_their_files_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    before = setup()
    with run_log(tmp_path / "a") as outer:
        outer.tell(logging.INFO, "told a")
        with run_log(tmp_path / "b") as inner:
            inner.tell(logging.WARNING, "told b")
            OURS.warning("both")
        OURS.info("a again")
    assert setup() == before
    first, second = ((tmp_path / name / "run.log").read_text() for name in "ab")
    assert "told b" not in first
    assert "a again" not in second
    assert (first.count("both"), second.count("both")) == (1, 1)


def test_logging_set_up_anew_in_the_run_loses_nothing_of_ours(tmp_path: Path) -> None:
    handlers, level = list(ROOT.handlers), ROOT.level
    try:
        with run_log(tmp_path) as log:
            logging.basicConfig(force=True, stream=io.StringIO())
            OURS.info("still here")
            log.tell(logging.INFO, "and here")
    finally:
        ROOT.handlers[:] = handlers
        ROOT.setLevel(level)
    text = (tmp_path / "run.log").read_text()
    assert "still here" in text
    assert "and here" in text


def test_file_that_cannot_be_written_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.log").mkdir()
    with run_log(tmp_path) as log:
        log.tell(logging.INFO, "one")
        log.tell(logging.INFO, "two")
    err = capsys.readouterr().err
    assert err.count("cannot be written") == 1
    assert "The run goes on" in err


def test_full_disk_is_told_once_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    (tmp_path / "run.log").symlink_to("/dev/full")
    before = open_files()
    with run_log(tmp_path) as log:
        log.tell(logging.INFO, "one")
    assert open_files() == before
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_attempt_tells_what_failed_and_goes_on(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("no room")

    with run_log(tmp_path) as log:
        log.attempt("summary.json", fail)
    text = (tmp_path / "run.log").read_text()
    assert "summary.json could not be written: OSError: no room" in text
    assert "Traceback" in text


def test_late_line_does_not_open_the_file_again(tmp_path: Path) -> None:
    with run_log(tmp_path) as log:
        pass
    before = open_files()
    log.tell(logging.WARNING, "too late")
    assert open_files() == before
    assert "too late" not in (tmp_path / "run.log").read_text()
    log.close()


@pytest.mark.parametrize(
    ("event", "level", "part"),
    [
        ({"kind": "message", "level": "error", "text": "x"}, 40, "x"),
        ({"kind": "message", "text": "x"}, 20, "x"),
        ({"kind": "watchdog", "id": "W1", "severity": "fail", "text": "t"}, 40, "W1"),
        ({"kind": "alert", "level": "warning", "title": "T", "text": "t"}, 30, "T: t"),
        ({"kind": "refused", "step": 3, "loss": 1.0}, 30, "step 3 refused"),
        ({"kind": "oom", "step": 3, "micro_batch": 2}, 30, "batch now 2"),
        ({"kind": "checkpoint", "step": 3, "best": True, "path": "p"}, 20, "best so"),
        ({"kind": "run_end", "status": "failed", "reason": "r"}, 40, "failed, r"),
        ({"kind": "run_end", "status": "finished", "reason": "r"}, 20, "finished"),
        ({"kind": "epoch", "epoch": 2, "val_loss": 0.5}, 20, "epoch 2/9 done"),
    ],
)
def test_event_becomes_a_line_of_its_level(
    event: dict[str, Any], level: int, part: str
) -> None:
    found = log_line(event, 9)
    assert found is not None
    assert found[0] == level
    assert part in found[1]


@pytest.mark.parametrize("kind", ["step", "monitor", "histogram", "examples", "new"])
def test_event_of_numbers_or_of_a_new_kind_is_no_line(kind: str) -> None:
    assert log_line({"kind": kind, "step": 1}) is None


def test_mirror_writes_what_subscribers_get(tmp_path: Path) -> None:
    with run_log(tmp_path) as log, EventLog(tmp_path / "events.jsonl") as events:
        events.subscribe(log.mirror, "run.log")
        events.write("run_start", epochs=3)
        events.write("step", step=1, loss=0.5)
        events.write("epoch", epoch=1, train_loss=0.5)
        assert events.num_failures == {}
    text = (tmp_path / "run.log").read_text()
    assert "epoch 1/3 done" in text
    assert "step 1" not in text


def test_training_writes_its_story_and_closes_the_file(tmp_path: Path) -> None:
    class Talks(nb.Callback):
        def on_epoch_end(self, state: Any) -> None:
            logging.getLogger("nbutils.mine").info("epoch %d seen", state.epoch)

    before = setup()
    coordinator = nb.TrainingCoordinator(
        make_task(), epochs=2, run_dir=tmp_path / "run", callbacks=[Talks()]
    )
    coordinator.train()
    assert setup() == before
    assert not [name for name in open_files() if name.endswith("run.log")]
    text = (tmp_path / "run" / "run.log").read_text()
    for part in ("epoch 2 seen", "epoch 2/2 done", "run ended: finished, completed"):
        assert part in text


def test_training_that_fails_leaves_its_traceback(tmp_path: Path) -> None:
    class Breaks(nb.Callback):
        def on_epoch_end(self, state: Any) -> None:
            raise RuntimeError("broken on purpose")

    before = setup()
    coordinator = nb.TrainingCoordinator(
        make_task(), epochs=2, run_dir=tmp_path / "run", callbacks=[Breaks()]
    )
    with pytest.raises(RuntimeError, match="on purpose"):
        coordinator.train()
    assert setup() == before
    text = (tmp_path / "run" / "run.log").read_text()
    assert "ERROR   nbutils.run: run ended: failed, RuntimeError" in text
    assert "Traceback" in text
    assert "in on_epoch_end" in text


def test_second_run_of_a_kernel_writes_its_own_file_only(tmp_path: Path) -> None:
    for name in ("first", "second"):
        nb.TrainingCoordinator(make_task(), epochs=1, run_dir=tmp_path / name).train()
        size = (tmp_path / "first" / "run.log").stat().st_size
        if name == "first":
            first = size
    assert size == first
    assert "second" in (tmp_path / "second" / "run.log").read_text()


def test_log_is_a_file_of_the_package(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.log")
    assert not log.path.exists()  # opened with its first line
