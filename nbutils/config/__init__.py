"""What a run is told: settings, presets, sources, origins."""

from nbutils.config.presets import presets
from nbutils.config.run_config import RunConfig
from nbutils.config.sources import resolve

__all__ = ["RunConfig", "presets", "resolve"]
