"""The registry builds what the configuration names, or lists what it could."""

from __future__ import annotations

import pytest

from nbutils.config import RunConfig
from nbutils.errors import ConfigError
from nbutils.recipes import build_task


def test_build_task_without_recipe_raises_and_lists_known():
    with pytest.raises(ConfigError, match=r"recipe is not set; .* 'vision'"):
        build_task(RunConfig())


def test_build_task_unknown_recipe_raises_with_nearest():
    with pytest.raises(ConfigError, match=r"'visoin'; .* Did you mean 'vision'\?"):
        build_task(RunConfig(recipe="visoin"))
