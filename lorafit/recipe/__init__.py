"""What the user may write: the schema, the loader that knows the line of every fault, the resolved recipe."""
