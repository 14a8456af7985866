"""The journal of changes: what was before and after each, and how it is taken back."""
