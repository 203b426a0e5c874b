"""Watchdogs: a run that looks healthy and is not, W1 to W9."""
