"""Encryption while data are loaded: a collate_fn for DataLoader, a torchvision transform."""
