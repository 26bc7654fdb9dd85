"""The router: one request from identity to last token."""
