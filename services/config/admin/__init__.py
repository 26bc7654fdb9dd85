"""The admin RPCs, one module a noun."""
