"""What to run where there is a GPU for a quarter of an hour; see README.md."""
