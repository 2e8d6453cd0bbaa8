"""Tables, curves and pictures drawn from docs/results."""
