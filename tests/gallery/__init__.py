"""Programs with one seeded fault each, their healthy twins, and unusual healthy ones."""
