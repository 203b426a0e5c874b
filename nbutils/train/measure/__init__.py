"""Test numbers with their intervals, and the trivial answers beside them."""
