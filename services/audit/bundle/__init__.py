"""Export bundles: their format, writing one, verifying one offline."""
