"""What any trainer stands in: run directory, checkpoints, signals, guards, metrics."""
