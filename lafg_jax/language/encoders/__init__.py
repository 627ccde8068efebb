"""Texts and images to features of a frozen encoder."""
