"""What every trainer uses around its loop: run directory, checkpoints, signals, guards, metrics."""
