"""A trained model as its user meets it: restore, embed, search, export."""
