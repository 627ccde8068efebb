"""The shipped configs of image-text retrieval."""
