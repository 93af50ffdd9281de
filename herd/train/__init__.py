"""Training: one trainer, objectives, samples and their packing, checkpoints that resume exactly. See docs/explanation/training.md."""
