"""Triton model repositories and the engine of the CPU twin."""
