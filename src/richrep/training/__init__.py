"""Training: returns a new backbone. One loop for every method, one method per file."""
