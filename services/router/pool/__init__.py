"""Decides where and when a request runs: endpoints, adapter residency and the queue behind one `acquire`.

Entrance: `directory.PoolDirectory.pool`, then `pool.Pool.acquire`. A fair queue takes the place of `fifo_queue` behind
`queue_discipline`. Nothing here talks to model servers: probes are passed in, and `backends` sends requests.
"""
