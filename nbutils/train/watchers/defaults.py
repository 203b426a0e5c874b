"""The watchers of a run: the defaults, and those that take their place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nbutils.train.watchers.amp import AmpMonitor
from nbutils.train.watchers.board import Board
from nbutils.train.watchers.devices import DeviceMonitor
from nbutils.train.watchers.examples import ExampleMonitor
from nbutils.train.watchers.gradients import GradientMonitor
from nbutils.train.watchers.histograms import HistogramMonitor
from nbutils.train.watchers.learning_rates import LearningRateMonitor
from nbutils.train.watchers.stopping import StoppingMonitor
from nbutils.train.watchers.throughput import ThroughputMonitor
from nbutils.train.watchers.watcher import Parts, Watcher

__all__ = ["attach_watchers", "default_watchers"]


def default_watchers(config: Any) -> list[Watcher]:
    """What watches every run, as far as its config does not switch it off."""
    display = config.display
    found: list[Watcher] = [
        ThroughputMonitor(),
        LearningRateMonitor(),
        AmpMonitor(),
        StoppingMonitor(),
        ExampleMonitor(),
    ]
    if display.gradient_stats_every_steps is not None:
        found.append(GradientMonitor(display.gradient_stats_every_steps))
    if display.histogram_every_steps is not None:
        found.append(HistogramMonitor(display.histogram_every_steps))
    if display.sample_every_s is not None:
        found.append(DeviceMonitor(display.sample_every_s))
    return found


def attach_watchers(parts: Parts, given: Iterable[Any]) -> tuple[Board, list[Watcher]]:
    """Attach the defaults that no given callback replaces, and the given ones.

    Args:
        parts: Of the run.
        given: The user's callbacks; those that are no watchers are left alone.

    Returns:
        The defaults behind one callback, and all that were attached.
    """
    own: Sequence[Watcher] = [w for w in given if isinstance(w, Watcher)]
    replaced = {kind for watcher in own for kind in type(watcher).__mro__}
    found = [w for w in default_watchers(parts.config) if type(w) not in replaced]
    for watcher in [*found, *own]:
        watcher.attach(parts)
    return Board(found), [*found, *own]
