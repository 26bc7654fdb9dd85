"""The config in force, in memory, and the records that it consists of, sealed and opened.

It neither writes nor serves. `current_state.CurrentState` holds the config in force; `config_state.ConfigState` is one
immutable state of it.
"""
