"""What happens between noise and image: the solvers, and chains that are watched, led or begun in the middle."""
