"""From a loss to learned weights."""
