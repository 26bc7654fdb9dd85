"""The operator audit log: every edit announced before it happens, and concluded after."""
