"""Readers of file formats: what touches the bytes of a data set."""
