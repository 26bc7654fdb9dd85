"""One request's way, from the RPC to the last token."""
