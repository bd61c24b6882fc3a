"""Sealing: keyed tags that tell whether weights are still those that were sealed, and which part is not."""
