"""The embedded data set: rendered finches, their descriptions, and a tiny CLIP trained on them."""
