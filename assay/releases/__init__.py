"""Releases: coders that others have published, by name: a catalogue of rules, the hub and its mirrors, published figures, model cards."""
