"""What leaves the run folder: the adapter merged into its base, as a model that every tool loads."""
