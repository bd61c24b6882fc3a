"""The command line: its commands (app), what a file is (inspect), how far work has come (progress)."""

from blockenc.cli.app import main

__all__ = ["main"]
