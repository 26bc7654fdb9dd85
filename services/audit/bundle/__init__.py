"""Export bundles: writing one, verifying one offline, reading its entries. docs/formats/audit-bundle.md specifies them.

Pure: the verifier needs no service and no secret, and the command line uses it as it is.
Entrances: `export.py` writes, `verify.py` checks, `report.py` says what was found, `reader.py` reads.
"""
