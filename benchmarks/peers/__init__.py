"""The systems that ours is compared with, each written as its documentation shows, in an environment of its own."""
