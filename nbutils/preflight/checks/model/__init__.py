"""The forward pass: shapes, modes, leaks, precision, metrics."""
