"""The loop, the step, checkpoints: what trains any objective."""
