"""Typed clients of the mesh's two listeners, for commands and for `up`."""
