"""Memory budget of an engine: the LRU cache, the limit and the buffers."""
