"""The data directory on disk: journal, names, checkpoints, compaction, checks."""
