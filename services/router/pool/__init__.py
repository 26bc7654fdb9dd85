"""Decides where and when a request runs: endpoints, adapter residency and the queue behind one `acquire`.

Entrance: `directory.PoolDirectory.pool`, then `pool.Pool.acquire`. `queue_discipline` is the interface of queues;
`fifo_queue` implements it. Nothing here talks to model servers: probes are passed in, and `backends` sends requests.
"""
