"""Keys of a config: their table, their rules, and how a command line sets them."""
