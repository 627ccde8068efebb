"""The page of `lafg_jax.demo`: a gallery in the browser, by image, words and filters."""
