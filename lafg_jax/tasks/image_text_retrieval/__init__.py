"""Image-text retrieval with captions: prompts for a frozen CLIP, as DCAR learns them."""
