"""A frozen model over a section: devices, tiles, tokens, windows, and the record of what was run."""
