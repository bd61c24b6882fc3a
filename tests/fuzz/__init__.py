"""Fuzzing of what reads files of others: `python -m tests.fuzz --minutes N TARGET` (see __main__.py)."""
