"""The shipped configs of composed retrieval."""
