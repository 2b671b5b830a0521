"""Stage 2: captions become images in WebDataset shards, drawn so that an interruption changes no byte."""
