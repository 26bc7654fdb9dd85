"""Text as models see it: chat templates, tokenisers, the bytes of tokens. Pure.

The only importer of jinja2 and tokenizers. Limits and guardrails on text are not here.
Entrances: `templates.py` renders a conversation, `tokenisation.py` makes ids of it.
"""
