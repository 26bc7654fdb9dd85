"""Turns text into tokens and back: prompts, incremental decoding, stop sequences.

Entrances: `prompt_encoding.PromptEncoder` towards the model, `detokenisation` and `stop_sequences` on the way back.
Nothing here knows tenants, model servers or the wire; templates and tokenisers come from `services.common.text`.
"""
