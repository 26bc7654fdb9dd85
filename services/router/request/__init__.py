"""Leads a request through its steps: identity, limits, shaping, admission, relay.

Entrance: `servicer.InferenceServicer`, which hands every call to `pipeline.Pipeline`; read that from top to bottom. The
steps themselves are pure where they can be. Judging text, granting places and calling servers are other folders' work.
"""
