"""One module a file format: each gives a :class:`Volume`."""
