"""Mechanisms, accounting, the ledger and the privacy statement."""
