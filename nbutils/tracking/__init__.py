"""Services that mirror a run's events: W&B, TensorBoard, none."""
