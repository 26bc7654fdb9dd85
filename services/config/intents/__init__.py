"""The one door to live config: every change is recorded before it is written, and concluded after.

`intents.Intents.write` is the only entrance; marks, open intents and the operator audit log stay behind it. No rule
about what a config may hold lives here.
"""
