"""Scripts that time firstlight and its peers on the same task."""
