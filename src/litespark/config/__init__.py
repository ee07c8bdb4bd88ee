"""Settings: the groups of a config and what they share. `groups` lists the class of each group."""
