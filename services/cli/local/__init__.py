"""The mesh on one host: processes, their order, and what they need."""
