"""What `t2ipal doctor` looks at: one module for each area, each a list of checks."""
