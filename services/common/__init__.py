"""Parts that several services share: errors, tokens, durable files, logging, gRPC, the writing side of the audit log.

A module here knows no service and imports none. What only one service needs stays in that service.
No common entrance: each module stands alone, and the folders `rpc`, `audit`, `text` and `known_good` have a subject
each. Most callers begin with `errors`.
"""
