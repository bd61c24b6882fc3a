"""Data loaders and the command, against plain ones: python -m benchmarks.data"""
