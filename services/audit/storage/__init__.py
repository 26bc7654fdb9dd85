"""Durable files below the logs: the commit journal, its frames, recovery, the state directory."""
