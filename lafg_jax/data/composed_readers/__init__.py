"""Where composed queries come from: a module for each `composed.source`, with `read(config)`."""
