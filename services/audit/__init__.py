"""The audit service: per-tenant encrypted, signed, append-only logs."""
