"""Quotas: slices held by this router, and how it gets them."""
