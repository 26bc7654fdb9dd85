"""`python -m scripts.bench.neighbours.fcfs_router`: the router, serving pools in order of arrival."""

from __future__ import annotations

from services.router.main import main
from services.router.pool import directory
from services.router.pool.fifo_queue import FifoQueue


def in_order_of_arrival(*_: object) -> FifoQueue:
    """A queue for a pool; it has no use for the counters of the pool before."""
    return FifoQueue()


if __name__ == "__main__":
    vars(directory)["FairQueue"] = in_order_of_arrival
    main()
