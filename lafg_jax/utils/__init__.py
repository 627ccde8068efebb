"""Errors, files, vectors and names: what every room may use, and which knows none of them."""
