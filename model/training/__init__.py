"""What all trainings share: loop, checkpoints, metrics, optimizer, processes."""
