"""A file becomes frames, and frames become patches."""
