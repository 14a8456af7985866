"""Plans: what a call would do, shown before it does it."""
