"""Speed and memory of a training step, beside other tools on the same work in the same run."""
