"""Who captions images, and the file of captions."""
