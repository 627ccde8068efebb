"""Pretrained weights: finding their files, telling their family, loading them."""
