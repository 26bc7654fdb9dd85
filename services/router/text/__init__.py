"""Between text and tokens: encoding prompts, decoding answers, stop sequences."""
