"""Runs: `fit`, `rounds`, `load`, and configs as the arguments of `fit`."""
