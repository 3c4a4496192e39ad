"""Formats: one dialect of coder file a module. `native` is our own."""
