"""Generators, tokenizer and pretraining of the tiny base model and its SQL data set."""
