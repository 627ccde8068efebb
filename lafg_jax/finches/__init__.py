"""The embedded data set: rendered finches, what is said of them, and the tiny CLIP that knows them."""
