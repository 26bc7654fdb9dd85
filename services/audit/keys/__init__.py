"""Keys and envelopes: root KEK, tenant KEKs, data keys, signing keys."""
