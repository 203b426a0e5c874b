"""What an hour of this machine costs, where someone has said so."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from nbutils.errors import ConfigError

__all__ = ["PRICE", "parse_price", "price_of", "price_per_hour"]

PRICE = "NBUTILS_PRICE_PER_HOUR"
"""The variable that holds it, in any currency."""


def price_per_hour(environ: Mapping[str, str] | None = None) -> float | None:
    """The price in the environment; none if not set.

    Raises:
        ConfigError: It is no number.
    """
    environ = os.environ if environ is None else environ
    return parse_price(environ.get(PRICE, ""))


def parse_price(text: str) -> float | None:
    """The number that a text means; none if it is empty.

    Raises:
        ConfigError: It is no number >= 0.

    Example:
        >>> parse_price(" 0.42 "), parse_price("")
        (0.42, None)
    """
    if not text.strip():
        return None
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not 0 <= price < math.inf:
        raise ConfigError(
            [
                f"the price of an hour is {text.strip()!r}; it must be a number >= 0, "
                "such as 0.42, without a currency."
            ]
        )
    return price


def price_of(seconds: float, price: float) -> float:
    """What so many seconds cost."""
    return price * seconds / 3600
