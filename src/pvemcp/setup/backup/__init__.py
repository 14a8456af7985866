"""Backups of what cannot be had again: settings, grants, keys, the head of the audit."""
