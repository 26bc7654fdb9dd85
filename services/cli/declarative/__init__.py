"""Tenants as files: documents, plans and the steps that carry them out."""
