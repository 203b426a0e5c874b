"""Snapshots of a run, and the store that keeps them whole."""
