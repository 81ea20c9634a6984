"""Whole systems, assembled from layers."""
