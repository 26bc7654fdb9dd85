"""Judges texts by a tenant's guardrails: lets them pass, redacts or denies them.

Entrance: `guardrails.Guardrails`, with `check_input` and `check_output`. `redaction` is the pure judgement,
`pattern_sets` the only user of RE2. Nothing here knows requests, audit entries or where rules are stored.
"""
