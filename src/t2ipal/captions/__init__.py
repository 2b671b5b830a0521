"""Stage 1: captions whose labels are mined from their text."""
