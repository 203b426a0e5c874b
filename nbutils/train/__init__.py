"""The training loop: windows, precision, guard, step, loop, evaluation."""
