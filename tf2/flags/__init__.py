"""Every flag once, one file per group: default, help text, choices, range, scope, identity; rules.

run.py and `config.Config` are made from these fields, and all lists of flags from their metadata
(`fields.flag`). May import architecture, modes and errors, and no TensorFlow: `--help` is fast.
"""
