"""Runs the whole mesh on one machine: ports, certificates, processes and their logs.

Knows how each service is started, never how it works: services are reached by their settings and over gRPC. Enter by
`layout.open_layout` and `mesh.LocalMesh`; the only prose for a terminal is in its errors.
"""
