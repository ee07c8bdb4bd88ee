"""`litespark bench profile`: where the time of a step goes, by kernel class, beside the least time of each."""
