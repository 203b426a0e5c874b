"""Settings that were asked for and have no effect on the task at hand."""

from __future__ import annotations

from typing import Any

__all__ = ["ignored_settings"]

READ_BY_RECIPES = {
    "data_dir": "give the data to the task",
    "max_samples": "give the task fewer samples",
    "max_bad_fraction": "leave unreadable samples out of the data",
    "val_fraction": "split the data, and give val_data to the task",
    "test_fraction": "split the data, and give test_data to the task",
    "architecture": "build that model for the task",
    "pretrained": "load the weights into the model",
    "image_size": "resize in the dataset",
    "drop_rate": "build the model with it",
}


def ignored_settings(task: Any, config: Any) -> list[str]:
    """One sentence for each setting given by hand that this run does not read.

    A recipe reads some settings when it builds a task; on a task made by hand, or
    built before they were changed, they do nothing.
    """
    if task.config is not None:
        return _changed_since(task.config, config)
    sentences = [
        f"{leaf} has no effect on a task made by hand: recipes read it. To have it, "
        f"{instead}."
        for leaf, instead in READ_BY_RECIPES.items()
        if config.origin(leaf) == "argument"
    ]
    amount = config.loss.label_smoothing
    is_asked = config.origin("label_smoothing") == "argument"
    if not task.smooth_labels(amount) and is_asked:
        sentences.append(
            f"label_smoothing={amount:g} has no effect: this task's loss is not "
            "torch's cross-entropy, or smooths by itself. Smooth in the loss."
        )
    return sentences


def _changed_since(built: Any, config: Any) -> list[str]:
    before, now = built.leaves(), config.leaves()
    return [
        f"{leaf} is {now[leaf]!r}, and the task was built with {before[leaf]!r}: it "
        "has no effect any more. Build the task anew: nb.build_task(config)."
        for leaf in (*READ_BY_RECIPES, "label_smoothing")
        if now[leaf] != before[leaf]
    ]
