"""Parts that several services share: errors, tokens, durable files, logging, gRPC, the writing side of the audit log.

A module here knows no service and imports none. What only one service needs stays in that service.
Each module stands alone; the folders `rpc`, `audit`, `text` and `known_good` have a subject each.
"""
