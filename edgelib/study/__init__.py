"""Studies: grids of cells, the engine that runs them, the store that keeps them."""
