"""The audit service's RPCs: the append stream with its queue of batches, and reviewers' reads under grants."""
