"""What an edit does to weights: deltas, patch files, checkpoints, editors, evaluation."""
