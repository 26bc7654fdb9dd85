"""The admin RPCs, one module for each noun, and what they share.

They read the config in force, ask the rules, and write through `edits.Edits`, which ends in
`intents.transactions`; none of them touches etcd otherwise. `servicer.AdminServicer` is the entrance.
"""
