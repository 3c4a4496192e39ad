"""Assay: train, measure and use sparse autoencoders on language models."""
