"""Number formats, one file a family: grids, encode, decode, bits, parts of a packed file."""
