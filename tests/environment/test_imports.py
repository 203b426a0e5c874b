"""Imports with the garbage collector paused."""

from __future__ import annotations

import gc

import pytest

from nbutils.environment.imports import collector_paused


def test_collector_is_paused_inside_and_on_again_after_it() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collector_is_on_again_after_an_error() -> None:
    with pytest.raises(ImportError), collector_paused():
        raise ImportError("missing")
    assert gc.isenabled()


def test_collector_that_the_user_switched_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
