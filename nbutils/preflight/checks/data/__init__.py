"""Samples, splits, transforms and batches."""
