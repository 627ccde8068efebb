"""One module for each source of captions: `read(config) -> listed.Listed`, images not yet opened.

The module is called as `captions.source` is. Its `read` raises a UserError of one line where
something is missing or wrong.
"""
