"""Tenants as files: documents, plans, and the steps that carry plans out.

Reads documents, compares them with the mesh and changes it. Options of commands stay in `commands`, the meaning of
fields in `reference`. The entrances are `declared.read_declared` and `tenant_plan.make_plan`.
"""
