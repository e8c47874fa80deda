"""Where `tests.methods.tiny_faces` is asked for by its old name."""

from tests.methods.tiny_faces import registered, tiny

__all__ = ["registered", "tiny"]
