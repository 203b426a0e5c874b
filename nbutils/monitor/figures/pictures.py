"""A grid of samples, each under its title."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbutils.errors import ContractError
from nbutils.monitor.figures.style import headline, new_figure, plain, styled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

__all__ = ["plot_mistakes"]


def plot_mistakes(
    images: Sequence[Any], titles: Sequence[str], heading: str = ""
) -> Figure:
    """A grid of samples with a title each.

    Args:
        images: Arrays or tensors ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` with one
            or three channels; values beyond 0..1 are scaled to the image's range.
        titles: One text an image, for example ``"true 4, said 9 (0.81)"``.
        heading: What these are, above them.

    Raises:
        ContractError: Another number of titles, or no image shape.
    """
    if len(images) != len(titles):
        raise ContractError(
            f"{len(images)} images came with {len(titles)} titles; expected one title "
            "an image."
        )
    columns = min(max(len(images), 1), 6)
    num_rows = math.ceil(max(len(images), 1) / columns)
    with styled():
        figure = new_figure(
            max(1.6 * columns, 3.0), 2.0 * num_rows + 0.3 * bool(heading)
        )
        axes = figure.subplots(num_rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, image, title in zip(axes, images, titles, strict=False):
            axis.imshow(_as_image(image), cmap="gray", interpolation="nearest")
            axis.set_title(plain(title), fontsize=8)
        if not len(images):
            axes[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
        if heading:
            headline(figure, plain(heading))
    return figure


def _as_image(image: Any) -> np.ndarray:
    """Values in 0..1 as ``(H, W)`` or ``(H, W, 3)``."""
    import numpy as np

    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim == 3 and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and array.shape[-1:] != (3,):
        raise ContractError(
            f"An image has shape {tuple(np.shape(image))}; expected (H, W), (H, W, C) "
            "or (C, H, W) with one or three channels. Choose the channels to show."
        )
    array = array.astype("float64")
    low, high = np.nanmin(array), np.nanmax(array)
    if low < 0 or high > 1:
        array = (array - low) / ((high - low) or 1.0)
    return array
