"""Verification, identification, retrieval and recall metrics, with confidence intervals."""
