"""Pure functions over global batches."""
