"""Sends granted requests to model servers, behind one protocol for all dialects.

Entrance: `dispatch.Dispatcher.send`. A dialect is one module that turns requests into messages and back, such as
`trtllm_engine`; `triton_stream` carries them. Nothing here queues, knows a tenant's rules or touches text.
"""
