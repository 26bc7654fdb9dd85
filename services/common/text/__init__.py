"""Text as models see it: chat templates, tokenisers, bytes of tokens."""
