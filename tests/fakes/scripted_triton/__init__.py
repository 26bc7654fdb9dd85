"""A fast Triton that runs no model: it replays frames recorded from the real server, under a script."""
