"""Galleries of 10,000 scenes and more: `make bench-large`."""
