"""What proves a log: entries, Merkle trees, signed notes. Pure."""
