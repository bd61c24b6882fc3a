"""Secrets: keys, key sets, the key schedule and the key file."""
