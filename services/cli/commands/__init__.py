"""The subcommands: their options, the calls they make and the output they print.

A module is imported only when its subcommand is called, and by no folder beside this one: shared code lives there. The
entrance is the table `SUBCOMMANDS` in `services.cli.main`; `invocation` turns a function's parameters into options.
"""
