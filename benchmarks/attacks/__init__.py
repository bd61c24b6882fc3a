"""Attacks on images of every published scheme, as recorded in results/ and shown in docs/attacks.md."""
