"""A one-class person detector: network, assignment, losses, data, export."""
