"""The oracle: docs/scheme.md in plain NumPy, one file a scheme version. It imports nothing of the package."""
