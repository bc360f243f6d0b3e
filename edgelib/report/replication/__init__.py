"""What the two benchmarks that this book starts from claim, row by row, against what the book's own tables show."""
