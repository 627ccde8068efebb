"""Image-text retrieval: a CLIP that is adapted to captions, by prompts (DCAR) or otherwise."""
