"""Watchers in a run: they change nothing, end with it, and stand aside for others."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from watcher_tools import fit, kinds, monitored

import nbutils as nb
from nbutils.checkpoint.rng import collect_rng
from nbutils.errors import ConfigError, EnvironmentProblem
from nbutils.monitor import device_stats
from nbutils.monitor.events import EventLog
from nbutils.testing import assert_same, make_task, weights
from nbutils.train.notifier import HOOKS
from nbutils.train.state import RunState
from nbutils.train.watchers import (
    AmpMonitor,
    DeviceMonitor,
    ExampleMonitor,
    GradientMonitor,
    HistogramMonitor,
    LearningRateMonitor,
    StoppingMonitor,
    ThroughputMonitor,
    Watcher,
)
from nbutils.train.watchers import defaults as defaults_module
from nbutils.train.watchers.board import Board
from nbutils.train.watchers.defaults import default_watchers
from nbutils.train.watchers.taps import Feed

OPTIONS: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 4,
    "ema_decay": 0.9,
    "schedule": "cosine",
    "patience": 50,
    "save_every_epochs": 1,
}


def busy() -> list[Watcher]:
    """All of them, at each step."""
    return [
        ThroughputMonitor(1),
        LearningRateMonitor(1),
        AmpMonitor(1),
        StoppingMonitor(),
        ExampleMonitor(),
        GradientMonitor(1),
        HistogramMonitor(1),
        DeviceMonitor(0.001),
    ]


def sampler_names() -> list[str]:
    threads = [thread.name for thread in threading.enumerate()]
    return [name for name in threads if "sampler" in name]


class StopAt(nb.Callback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, state: Any) -> None:
        if state.step == self._step:
            state.request_stop("test")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_and_generators_are_the_same_with_and_without(
    precision: str, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    options = {**OPTIONS, "precision": precision, "accumulation": accumulation}
    ends, drawn, losses = [], [], []
    for name in ("busy", "default", "none"):
        task = make_task()
        with monkeypatch.context() as patch:
            if name == "none":
                patch.setattr(defaults_module, "default_watchers", lambda config: [])
            callbacks = busy() if name == "busy" else []
            result = fit(task, name, *callbacks, **options)
        ends.append(weights(task))
        drawn.append(collect_rng())
        losses.append([row["train_loss"] for row in result.rows])
        assert bool(kinds(name, "monitor")) == (name != "none")
    for end, state, loss in zip(ends[:2], drawn[:2], losses[:2], strict=True):
        assert_same(end, ends[2])
        assert loss == losses[2]
        assert torch.equal(state["torch"], drawn[2]["torch"])


@pytest.mark.parametrize("stop", [1, 7, 10])
def test_resumed_run_ends_in_the_same_bits(
    stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.gradients.MAX_SHARE", 1e9)
    whole, part = make_task(), make_task()
    fit(whole, "whole", *busy(), **OPTIONS)
    fit(part, "part", *busy(), StopAt(stop), **OPTIONS)
    part = make_task()
    fit(part, "part", *busy(), **OPTIONS)
    assert_same(weights(whole), weights(part))
    for prefix in ("gradients/", "updates/", "lr/"):
        assert monitored("part", prefix) == monitored("whole", prefix)


def ways_out() -> dict[str, Any]:
    class Raises(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            if state.step == 3:
                raise ValueError("mine")

    class RaisesAtStart(nb.Callback):
        def on_fit_start(self, state: Any) -> None:
            raise ValueError("mine")

    class RaisesAtEnd(nb.Callback):
        def on_fit_end(self, state: Any) -> None:
            raise ValueError("mine")

    class Kicks(nb.Callback):
        def __init__(self, times: int) -> None:
            self.times = times

        def on_step_end(self, state: Any) -> None:
            if state.step == 3:
                for _ in range(self.times):
                    os.kill(os.getpid(), signal.SIGINT)

    class Hard(nb.Callback):
        def on_fit_end(self, state: Any) -> None:
            raise KeyboardInterrupt

    return {
        "completed": (None, nb.Callback()),
        "requested": (None, StopAt(3)),
        "interrupt": (None, Kicks(1)),
        "second interrupt": (KeyboardInterrupt, Kicks(2)),
        "error": (ValueError, Raises()),
        "error at the start": (ValueError, RaisesAtStart()),
        "error at the end": (ValueError, RaisesAtEnd()),
        "interrupt at the very end": (KeyboardInterrupt, Hard()),
    }


@pytest.mark.parametrize("way", list(ways_out()))
def test_sampler_is_gone_after_every_way_out(way: str) -> None:
    error, callback = ways_out()[way]
    if error is None:
        fit(make_task(), "run", callback, **OPTIONS)
    else:
        with pytest.raises(error):
            fit(make_task(), "run", callback, **OPTIONS)
    assert sampler_names() == []
    values = monitored("run", "host/")
    assert values, "short runs have figures too"
    assert kinds("run", "run_end")[-1]["time_s"] >= max(
        event["time_s"] for event in kinds("run", "monitor")
    )


@pytest.mark.parametrize("kind", ["watchdogs.Watchdogs", "watchers.DeviceMonitor"])
def test_sampler_is_gone_where_the_end_of_a_fit_was_interrupted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any, state: Any) -> None:
        raise KeyboardInterrupt

    home = f"nbutils.train.{kind}.on_fit_end"
    monkeypatch.setattr(home, interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        fit(make_task(), "run", **OPTIONS)
    assert sampler_names() == []


def test_sampler_runs_while_the_run_does_and_two_runs_have_one_each() -> None:
    seen: list[list[str]] = []

    class Look(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            seen.append(sampler_names())

    task = make_task()
    trainer = nb.TrainingCoordinator(
        task,
        callbacks=[Look()],
        run_dir="run",
        preflight="skip",
        panel="off",
        epochs=2,
        batch_size=8,
    )
    for _ in range(2):
        trainer.train()
        assert sampler_names() == []
    fit(make_task(), "other", Look(), epochs=2, batch_size=8)
    assert seen == [["nbutils sampler"]] * 20


def test_short_run_has_a_first_and_a_last_sample() -> None:
    fit(make_task(), "run", batch_size=8, epochs=1)
    found = [e for e in kinds("run", "monitor") if "host/rss_bytes" in e["values"]]
    assert len(found) == 2
    assert found[0]["step"] < found[1]["step"] == 5  # a thread may start a step late
    assert found[0]["time_s"] < found[1]["time_s"]


def test_samples_at_an_interval_have_the_time_they_were_taken() -> None:
    import time

    class Slow(nb.Callback):
        def on_step_end(self, state: Any) -> None:
            time.sleep(0.05)

    fit(make_task(), "run", Slow(), batch_size=8, epochs=1, sample_every_s=0.02)
    found = [e for e in kinds("run", "monitor") if "host/rss_bytes" in e["values"]]
    assert len(found) >= 5
    assert {event["step"] for event in found} <= {0, 1, 2, 3, 4, 5}
    assert len({event["step"] for event in found}) >= 3
    times = [event["time_s"] for event in found]
    assert times == sorted(times)


def test_reading_that_fails_is_told_once_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> int:
        raise OSError("no such file")

    monkeypatch.setattr(device_stats, "host_rss_bytes", broken)
    result = fit(make_task(), "run", batch_size=8, epochs=3, sample_every_s=0.001)
    assert result.stop_reason == "completed"
    texts = [event["text"] for event in kinds("run", "message")]
    assert [text for text in texts if "could not be read" in text] == [
        "device and host could not be read: OSError: no such file. The run goes on "
        "without these figures."
    ]


def test_full_disk_is_told_by_what_it_ended_and_the_sampler_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = EventLog.write

    def full(self: EventLog, kind: str, **fields: Any) -> Any:
        if kind == "step" or (kind == "monitor" and "host/rss_bytes" in str(fields)):
            raise EnvironmentProblem("the disk is full")
        return write(self, kind, **fields)

    monkeypatch.setattr(EventLog, "write", full)
    with pytest.raises(EnvironmentProblem, match="the disk is full"):
        fit(make_task(), "run", batch_size=8, epochs=3, log_every_steps=1)
    assert sampler_names() == []


def test_workers_forked_beside_the_sampler_work() -> None:
    class Samples(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            assert sampler_names() == [] or os.name == "nt"
            return torch.full((6,), float(index)), index % 2

    task = nb.Task(make_task().model, nn.CrossEntropyLoss(), Samples())
    monitor = DeviceMonitor(0.001)
    result = fit(task, "run", monitor, batch_size=8, epochs=3, num_workers=2)
    assert result.stop_reason == "completed"
    assert len(monitored("run", "host/")) > 1


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        ("sample_every_s", DeviceMonitor),
        ("gradient_stats_every_steps", GradientMonitor),
        ("histogram_every_steps", HistogramMonitor),
    ],
)
def test_settings_switch_watchers_off(leaf: str, kind: type[Watcher]) -> None:
    on = default_watchers(nb.RunConfig(**{leaf: 5}))
    off = default_watchers(nb.RunConfig(**{leaf: None}))
    assert [type(w) for w in on if not isinstance(w, kind)] == [type(w) for w in off]
    assert any(isinstance(w, kind) for w in on)


def test_given_watcher_takes_the_place_of_the_default_of_its_class() -> None:
    class Mine(LearningRateMonitor):
        """A class of one's own."""

    fit(make_task(), "run", Mine(2), batch_size=8, epochs=2)
    assert list(monitored("run", "lr/")) == [2, 4, 6, 8, 10]
    count = sum("lr/all" in event["values"] for event in kinds("run", "monitor"))
    assert count == 5  # and not the default's as well


def test_watcher_of_ones_own_sees_the_parts_and_writes() -> None:
    class Mine(Watcher):
        def on_epoch_end(self, state: Any) -> None:
            size = sum(p.numel() for p in self.parts.task.model.parameters())
            self.write(state.step, {"mine/size": size})
            self.write(state.step, {})  # nothing to tell

    fit(make_task(), "run", Mine(), batch_size=8, epochs=2)
    assert monitored("run", "mine/") == {5: {"mine/size": 178}, 10: {"mine/size": 178}}


def test_board_calls_those_alone_whose_step_has_come() -> None:
    seen: list[tuple[str, int]] = []

    class Each(Watcher):
        def __init__(self, name: str, every: int) -> None:
            self._name, self._every = name, every

        def on_step_end(self, state: Any) -> None:
            seen.append((self._name, state.step))
            self.wake = state.step + self._every

    class Silent(Watcher):
        """Has no such hook, and is not asked."""

    board = Board([Each("a", 4), Silent(), Each("b", 6)])
    state = RunState()
    for step in range(1, 14):
        state.step = step
        if step == 3:
            board.call()
        board.on_step_end(state)
    assert seen == [
        *(("a", 1), ("b", 1), ("a", 5), ("b", 7), ("a", 9), ("a", 13), ("b", 13)),
    ]
    Board([]).on_step_end(state)


def test_defaults_write_at_logged_steps_under_amp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nbutils.train.watchers.watcher.GAP_S", 3600.0)
    fit(make_task(), "run", batch_size=8, epochs=6, precision="fp16")
    assert list(monitored("run", "amp/")) == [10, 30]


def test_hooks_behind_the_board_fire_and_name_the_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    class Spy(AmpMonitor):
        """Takes the default's place on the board."""

    for name in HOOKS:
        monkeypatch.setattr(
            Spy, name, lambda self, state, name=name: seen.append(name), raising=False
        )
    monkeypatch.setattr(defaults_module, "AmpMonitor", Spy)
    monkeypatch.setattr(Spy, "attach", lambda self, parts: setattr(self, "wake", 0))
    fit(make_task(), "run", batch_size=8, epochs=1, save_every_epochs=1)
    assert set(seen) == set(HOOKS)
    assert (seen[0], seen[-1]) == ("on_fit_start", "on_fit_end")

    def fail(self: Any, state: Any) -> None:
        raise ValueError("mine")

    monkeypatch.setattr(Spy, "on_epoch_start", fail)
    with pytest.raises(ValueError, match="mine") as caught:
        fit(make_task(), "other", batch_size=8, epochs=1)
    notes = getattr(caught.value, "__notes__", ["in Spy.on_epoch_start at step 0"])
    assert "in Spy.on_epoch_start at step 0" in notes


def test_histograms_count_every_value_between_its_edges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caught: dict[str, list[Tensor]] = {}

    class Spy(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for name, p in zip(names, self.param_groups[0]["params"], strict=True):
                caught[f"gradients/{name}"] = [*caught.get(f"gradients/{name}", [])]
                caught[f"gradients/{name}"].append(p.grad.clone())
            found = super().step(closure)
            for name, p in zip(names, self.param_groups[0]["params"], strict=True):
                caught.setdefault(f"weights/{name}", []).append(p.detach().clone())
            return found

    task = make_task(make_optimizer=lambda m: Spy(m.parameters(), lr=0.01))
    names = [name.split(".")[0] for name, _ in task.model.named_parameters()]
    fit(
        task,
        "run",
        HistogramMonitor(1, num_bins=10),
        batch_size=40,
        epochs=1,
        clip_norm=None,
    )
    events = kinds("run", "histogram")
    assert {event["name"] for event in events} == set(caught)
    for event in events:
        values = torch.cat([t.flatten() for t in caught[event["name"]]])
        assert len(event["edges"]) == 11
        assert sum(event["counts"]) == values.numel()
        assert event["edges"][0] == pytest.approx(float(values.min()), rel=1e-5)
        assert event["edges"][-1] == pytest.approx(float(values.max()), rel=1e-5)
        edges = torch.tensor(event["edges"])
        expected = torch.histogram(values, edges).hist.tolist()
        assert event["counts"] == pytest.approx(expected, abs=1)


def test_histograms_of_scaled_gradients_are_unscaled() -> None:
    ends = []
    for precision in ("fp32", "fp16"):
        fit(
            make_task(),
            precision,
            HistogramMonitor(1),
            precision=precision,
            batch_size=40,
            epochs=1,
        )
        events = kinds(precision, "histogram")
        found = [e for e in events if e["name"] == "gradients/4"]
        ends.append([found[0]["edges"][0], found[0]["edges"][-1]])
    assert ends[1] == pytest.approx(ends[0], rel=0.02)


def test_histogram_of_equal_values_has_a_width_and_of_nan_there_is_none() -> None:
    from nbutils.train.watchers.histograms import histogram

    found = histogram([torch.full((4,), 2.0), torch.full((3,), 2.0)], 5)
    assert found is not None
    assert sum(found[1]) == 7
    assert found[0][0] < 2 < found[0][-1]
    assert histogram([torch.tensor([1.0, float("nan")])], 5) is None
    assert histogram([torch.zeros(3)], 4) is not None
    with pytest.raises(ConfigError, match="both must be >= 1"):
        HistogramMonitor(5, num_bins=0)


def test_feed_is_the_loader_in_all_but_the_clock() -> None:
    class Loader(list[int]):
        num_batches = 3

    feed = Feed().around(Loader([1, 2, 3]))
    seen: list[int] = []
    feed.on_batch = seen.append
    assert list(feed) == seen == [1, 2, 3]
    assert feed.num_batches == len(feed) == 3
    assert feed.waited_s > 0
    with pytest.raises(AttributeError):
        _ = feed.nothing


def test_quick_train_watches_in_its_own_folder(tmp_path: Path) -> None:
    trainer = nb.TrainingCoordinator(
        make_task(),
        callbacks=[GradientMonitor(1)],
        run_dir="run",
        preflight="skip",
        panel="off",
        batch_size=8,
        epochs=2,
    )
    quick = trainer.quick_train(2)
    trainer.train()
    assert list(monitored(quick.run_dir, "gradients/"))[:1] == [1]
    assert list(monitored("run", "gradients/"))[:1] == [1]
