from __future__ import annotations

import pytest

from nbutils.environment.price import PRICE, parse_price, price_of, price_per_hour
from nbutils.errors import ConfigError
from nbutils.preflight.checks.run import pace


def test_price_is_read_from_the_variable_that_preflight_reads():
    assert PRICE == pace.PRICE
    assert price_per_hour({PRICE: "0.42"}) == 0.42
    assert price_per_hour({}) is None


def test_price_of_half_an_hour_is_half():
    assert price_of(1800, 3.0) == 1.5


@pytest.mark.parametrize("text", ["1 USD", "-1", "nan", "inf"])
def test_price_that_is_no_number_is_refused(text):
    with pytest.raises(ConfigError, match="must be a number >= 0, such as"):
        parse_price(text)
