"""Callbacks that measure a run; each writes ``monitor`` events at its own cadence.

All but :class:`HistogramMonitor` watch every run. One that is passed in
``TrainingCoordinator(callbacks=[...])`` takes the place of the default of its class::

    from nbutils.train.watchers import GradientMonitor
    TrainingCoordinator(task, callbacks=[GradientMonitor(every_steps=50)])
"""

from nbutils.train.watchers.amp import AmpMonitor
from nbutils.train.watchers.devices import DeviceMonitor
from nbutils.train.watchers.examples import ExampleMonitor
from nbutils.train.watchers.gradients import GradientMonitor
from nbutils.train.watchers.histograms import HistogramMonitor
from nbutils.train.watchers.learning_rates import LearningRateMonitor
from nbutils.train.watchers.stopping import StoppingMonitor
from nbutils.train.watchers.throughput import ThroughputMonitor
from nbutils.train.watchers.watcher import Parts, Watcher

__all__ = [
    "AmpMonitor",
    "DeviceMonitor",
    "ExampleMonitor",
    "GradientMonitor",
    "HistogramMonitor",
    "LearningRateMonitor",
    "Parts",
    "StoppingMonitor",
    "ThroughputMonitor",
    "Watcher",
]
