"""Envoy's config as data, for any host: listeners, routes, key checks, limits, upstreams, access log.

Holds no process, no socket and no terminal: `services.local` runs Envoy, the command writes files.
Enter by `spec.EdgeSpec` (what to render), `spec_document.read_spec` (a spec out of a file) and `bootstrap.build`.
"""
