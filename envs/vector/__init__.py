"""Vector environments: Gymnasium, EnvPool, one child process, and a pool of worker processes."""
