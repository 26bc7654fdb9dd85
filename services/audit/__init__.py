"""The audit service: one encrypted, signed, append-only log for each tenant, and one for operators.

It knows entries, keys and proofs. It does not know what a model is or what a prompt means.
Start reading at `main.py`: an entry goes from `rpc` through `logs` into `storage`; an export comes out of `bundle`.
"""
