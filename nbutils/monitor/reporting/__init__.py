"""The sections of a run's report, each made from its directory alone."""
