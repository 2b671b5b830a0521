"""Frozen CLIP features: towers, extraction, Parquet store."""
