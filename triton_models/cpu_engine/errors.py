"""Refusals of the engine, with TensorRT-LLM's own messages where it has them."""

from __future__ import annotations


class RequestError(Exception):
    """The request cannot be served; the text is sent to the client as it is."""


class AdapterMissError(RequestError):
    """The adapter id is not cached and no weights came with it."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"LoRA task {task_id} not found in cache. Please send LoRA weights with request")
        self.task_id = task_id


class AdapterCacheFullError(RequestError):
    """Every cached adapter is in use."""

    def __init__(self, task_id: int) -> None:
        super().__init__(f"PEFT Cache is full. Could not store taskId={task_id}")
        self.task_id = task_id


class QueueFullError(RequestError):
    """The bound on waiting requests is reached."""

    def __init__(self, max_waiting: int) -> None:
        super().__init__(f"Maximum queue size of {max_waiting} has been reached, please try again later")
