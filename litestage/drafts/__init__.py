"""Drafts of what a stage will write, verified many tokens at a time: the same text in fewer steps."""
