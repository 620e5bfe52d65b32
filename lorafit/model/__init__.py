"""Weights, quantisation and adapter as a model that trains, with its attention and its loss."""
