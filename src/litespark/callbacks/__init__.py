"""Lightning callbacks and loggers: instruments, checkpoints, signals, samples, the run record."""
