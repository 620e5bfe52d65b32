"""What will happen: the shapes of models, the sizes of a run, its schedule and its memory."""
