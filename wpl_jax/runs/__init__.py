"""Long runs: files, checkpoints, progress, and how they stop and resume."""
