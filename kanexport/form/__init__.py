"""What a KAN is: layers of edges, and the steps around them, in one form for every library."""
