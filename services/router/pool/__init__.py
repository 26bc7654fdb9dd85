"""Where and when a request runs: one decision over queue, capacity, adapter residency and endpoints."""
