"""The writing side of the audit log: entries and the append stream."""
