"""The compiled config: received, put together, compiled, kept on disk."""
