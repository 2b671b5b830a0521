"""The label sets that come with the package."""
