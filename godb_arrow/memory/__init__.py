"""One budget of memory: the LRU cache, the limit, the buffers."""
