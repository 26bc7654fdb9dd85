"""The service's RPCs: the append stream with its queue of batches, and reviewers' reads under grants.

The only folder of the service that knows gRPC and the event loop. What an entry or a log is stands in `logs`.
Entrances: `append_servicer.py` for writers, `review_servicer.py` for reviewers.
"""
