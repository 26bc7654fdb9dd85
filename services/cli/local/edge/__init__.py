"""Envoy's config, built from typed messages. Pure, but for `bootstrap.write`."""
