"""A picture's URL to pixels, and an embedding to similar pictures."""
