"""Training: the processes, the step, the course of a run, and what it leaves behind."""
