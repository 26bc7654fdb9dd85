"""gRPC between processes: servers, channels, TLS, error statuses, health.

Every server and channel of the mesh is made here, so that bounds and error mapping are the same everywhere. A service's
own methods and messages are not known here.
Entrances: `server.py` and `channel.py`.
"""
