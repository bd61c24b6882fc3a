"""Data sets on disk: encrypted and decrypted file by file, resumable."""
