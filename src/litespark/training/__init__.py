"""Training: the LightningModule, the optimizer, the schedules, the token budget and the strategies."""
