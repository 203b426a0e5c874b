"""The run as a whole: work, faults, checkpoints, resources, what comes after."""
