"""How model servers are spoken to: one module a dialect behind one protocol."""
