"""A gallery of images that is kept, added to and searched: Milvus holds it, a model embeds it."""
