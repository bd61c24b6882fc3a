"""Whether seals find what was changed, and what they cost."""
