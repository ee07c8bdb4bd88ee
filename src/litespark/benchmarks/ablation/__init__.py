"""What each optimisation buys: the settings in which baseline and target differ, switched on one after the other."""
