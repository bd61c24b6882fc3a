"""What passports (DeepIPR) cost, beside a key in the input and a key folded in."""
