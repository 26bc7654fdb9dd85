"""Output, questions, failures and progress: how the command speaks with people, and with programs by `--json`.

Makes no calls and decides nothing about a mesh. Entrances: `output.Output` prints results, `ending.report_ending` ends
a command that failed, `confirmation` asks.
"""
