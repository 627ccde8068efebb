"""The embedded data set: rendered finches, what is said of them, the tiny CLIP that knows them."""
