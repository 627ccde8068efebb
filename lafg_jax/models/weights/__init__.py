"""Where pretrained weights lie, whose they are, and how they are loaded."""
