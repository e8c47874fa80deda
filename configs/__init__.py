"""Experiment configs: the only home of hyperparameters."""
