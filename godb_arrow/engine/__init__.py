"""Storage engine: opens a data directory and its collections, saves, recovers, replicates."""
