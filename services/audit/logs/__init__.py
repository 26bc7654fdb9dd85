"""The tenants' logs: what is in them, in memory and in segments, and how they are put back after a stop."""
