"""Files of a run: the directory and its lock, checkpoints, metrics, status, atomic writes."""
