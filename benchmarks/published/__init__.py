"""Meta-learning as published implementations write it, anew and as fast as that way allows: what we compare with."""
