"""Ways of stepping many environments at once: Gymnasium, EnvPool, processes."""
