"""Sparsely Connected Autoencoders: train, prune and read suites of sparse dictionaries."""
