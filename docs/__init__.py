"""The documentation, and the little that is generated in it."""
