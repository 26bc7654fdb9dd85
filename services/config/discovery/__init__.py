"""Delivers config to routers and knows which of them has applied what."""
