"""LaFG: images of classes never seen, found by images."""
