"""What a request leaves in its tenant's audit log."""
