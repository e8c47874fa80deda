"""Losses on embeddings and logits; every one takes a mask of real examples and ignores padding."""
