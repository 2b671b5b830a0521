"""What a run will cost before it is begun: images, jobs, disk, hours."""
