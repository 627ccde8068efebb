"""Composed retrieval: an image and a sentence find an image (CVSI, Ye et al., ICDM 2025)."""
