"""Configs of tests that are still in flat sections, and the calls that they stand for."""
