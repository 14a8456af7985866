"""Tests of commands and files on real guests."""
