"""One truth on limits, queues, places and adapters for all routers of a mesh: the flow controller.

Entrance: `requests.Requests.entered`, whose request asks the flow controller wherever it is. `events` is what the two
sides say, `controller` and `session` are the controller's side over this process's pools, `role` follows which router
it is. No model server is reached from here.
"""
