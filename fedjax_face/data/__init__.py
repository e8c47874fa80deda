"""Data sets, users, cohorts, splits and the built-in synthetic faces."""
