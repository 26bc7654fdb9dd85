"""Triton model repositories and the engine of the CPU twin.

Knows Triton and OpenVINO, nothing of the mesh: no tenant, no service, no stub. `cpu/` and `trtllm/` are repositories
that Triton loads; enter by `cpu_engine.launch` to start a server with the twin.
"""
