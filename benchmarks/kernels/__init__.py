"""Kernel machines on encrypted digits: the right key, wrong keys, no key."""
