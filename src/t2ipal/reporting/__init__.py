"""What a reader sees: the summary files, the table on the terminal, and the HTML report."""
