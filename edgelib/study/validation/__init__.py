"""What the numbers of this library are held against: other tools' vectors, and simulations whose truth is known."""
