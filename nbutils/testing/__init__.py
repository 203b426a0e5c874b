"""What tests of runs are built from; also for the tests of those who use us."""

from nbutils.testing.tasks import assert_same, make_task, weights

__all__ = ["assert_same", "make_task", "weights"]
