"""Segmentation and detection of small scenes, with keys in images, in feature maps and in trained models."""
