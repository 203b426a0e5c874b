"""Gradients, optimizer, schedule, and whether it learns."""
