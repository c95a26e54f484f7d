"""Real data that the package carries, for the demo and the examples."""
