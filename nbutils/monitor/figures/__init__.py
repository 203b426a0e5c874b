"""Figures for the report and for slides; drawn with matplotlib, without pyplot."""

from __future__ import annotations

from nbutils.monitor.figures.answers import draw_answers
from nbutils.monitor.figures.calibration import plot_reliability
from nbutils.monitor.figures.classes import plot_classes
from nbutils.monitor.figures.confusion import plot_confusion
from nbutils.monitor.figures.history import plot_history
from nbutils.monitor.figures.pictures import plot_mistakes
from nbutils.monitor.figures.style import FIGURE_DPI, save_figure
from nbutils.monitor.figures.values import plot_values

__all__ = [
    "FIGURE_DPI",
    "draw_answers",
    "plot_classes",
    "plot_confusion",
    "plot_history",
    "plot_mistakes",
    "plot_reliability",
    "plot_values",
    "save_figure",
]
