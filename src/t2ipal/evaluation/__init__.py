"""Stage 5: scores and metrics of a model on test images."""
