"""The machine room: the command line, runs of sections, the manifest, checks, the report."""
