"""Recipes: complete tasks that a configuration describes."""

from __future__ import annotations

from nbutils.recipes.registry import RECIPES, build_task

__all__ = ["RECIPES", "build_task"]
