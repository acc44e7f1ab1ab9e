"""Makes the pages that are generated."""
