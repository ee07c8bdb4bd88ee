"""Head projection and cross-entropy in one operation."""
