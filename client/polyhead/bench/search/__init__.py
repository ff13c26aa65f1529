"""`--find-max`: the search for the highest rate that a server sustains."""
