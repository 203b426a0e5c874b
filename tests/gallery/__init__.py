"""Programs with one seeded fault each, their twins, and unusual healthy ones."""
