"""Envoy's configuration, as data."""
