"""A ray-cast 3-D head: who it is, how it was photographed, its surface, its paint, its pixels."""
