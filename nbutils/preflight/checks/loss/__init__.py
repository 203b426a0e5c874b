"""What is minimised: values, terms, targets, baselines."""
