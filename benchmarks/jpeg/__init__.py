"""What encrypted pictures cost and lose as JPEG files (docs/jpeg.md)."""
