"""Labelled clips, made or found, as padded batches."""
