"""How fairly a pool is shared: workloads, their figures, and the report that a person reads."""
