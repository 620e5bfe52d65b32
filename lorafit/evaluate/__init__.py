"""What a model is worth: loss, answers, metrics, and a chat to try it by hand."""
