"""One truth on limits, queues, places and adapters for all routers of a mesh: the flow controller.

Entrance: `requests.Requests.acquire`, which asks the flow controller wherever it is. `events` is what the two sides say;
`controller` and `session` are the controller's side, over this process's pools; `membership` decides which router it is.
"""
