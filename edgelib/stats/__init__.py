"""Statistics of outcome tables: paired tests, families, gaps, variance, ranks; tables in, plain values out."""
