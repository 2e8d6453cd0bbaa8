"""Sweeps: tables of training runs, and searches for hyperparameters."""
