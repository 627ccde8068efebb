"""Config keys: their table, defaults and rules, and the configs that are shipped."""
