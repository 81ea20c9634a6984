"""Video large models from scratch: every line to be read, run and checked."""
