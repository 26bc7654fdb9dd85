"""The only writer of live config: records each change as an intent, writes it in one transaction, records the outcome.

`transactions.Intents.write` is the only entrance; marks, open intents and the operator audit log stay behind it. No
rule about what a config may hold lives here.
"""
