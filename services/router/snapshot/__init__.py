"""Keeps the config in force: receives it from the config service, compiles it, falls back to a file.

Entrances: `config_client.ConfigClient` towards the config service, `config_state.ConfigState` for requests, `model` for
what they find there. Nothing here serves requests, and requests never wait for anything here.
"""
