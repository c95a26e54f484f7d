"""Data directory on disk: journal, names, checkpoints, compaction, checks."""
