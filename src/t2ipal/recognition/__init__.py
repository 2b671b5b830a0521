"""A trained model at work on images: load, predict, export."""
